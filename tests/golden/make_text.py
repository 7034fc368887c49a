"""Makes the golden files of `tests/text`: tokenizers, their ids, and rendered chat prompts.

    python make_text.py [SMOLLM2.gguf]

Needs transformers, tokenizers and sentencepiece (and gguf for the real model); the versions used are
recorded in the files. The tokenizers are trained here, on the few sentences below, so that the files stay
small. Two of the library's trainers break ties at random, so `tokenizers.json` and `ids.json` change from
run to run, always together:

    corpus.json           texts that are hard to tokenize; `long` is texts given by a repeated piece
    tokenizers.json       tokenizer.json documents by name, as a model folder would have them
    ids.json              the reference's ids and texts for each of them
    pre_tokenizers.json   one byte-level vocabulary and its ids under each pre-tokenizer of the GGUF world
    sentencepiece.json    a SentencePiece vocabulary, as a GGUF has it, and its ids
    chat_templates.json   templates, conversations, and what Transformers renders
    smollm2_ids.json      ids of the real SmolLM2 tokenizer, only with a path to its GGUF
    smollm2_chat.json     prompts of its chat template, likewise
"""

import copy
import io
import json
import sys
from datetime import datetime
from pathlib import Path

import sentencepiece
import tokenizers
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

OUT = Path(__file__).parent / "text"
VERSIONS = {
    "transformers": transformers.__version__,
    "tokenizers": tokenizers.__version__,
    "sentencepiece": sentencepiece.__version__,
}

# --- what to tokenize -------------------------------------------------------------------------------

TRAINING = [
    "The quick brown fox jumps over the lazy dog, and the dog doesn't mind; it's asleep.",
    "We'll see what they've done: I'm sure he'd say \"you're right\".  Two  spaces   three.",
    "def main(argv):\n    for i in range(10):\n        print(i, argv[i])\n\n    return 0\n",
    "In 2024 there were 12345 cats, 678 dogs and 90 birds. 3.14159 1,000,000 0x1F 10e-3",
    "Grüße aus München, ça va très bien. Привет, мир! Γειά σου Κόσμε. Việt Nam.",
    "你好，世界。我们在学习中文。日本語のテキストです。カタカナ 한국어 문장입니다.",
    "مرحبا بالعالم שלום עולם नमस्ते दुनिया สวัสดีชาวโลก",
    "😀 👍🏽 👨‍👩‍👧‍👦 🇩🇪 ✨ ½ ² ⅷ ٣٤٥ १२३",
    "HTTPServer camelCase snake_case CONSTANT_NAME kebab-case path/to/file.txt C:\\dir\\x",
    "<div class=\"a\">x &amp; y</div> {\"key\": [1, 2, {\"b\": null}]} $a += b << 2; // note\r\n",
    "\tTabs\tand\n\n\nnewlines\r\n\r\nmixed \n \n \t x",
    "THE END. It'S THEY'RE DON'T 'S 'Ll e\u0301te\u0301 cafe\u0301 café naïve coöperate",
]

CORPUS = [
    "",
    " ",
    "  ",
    "\n",
    "\t",
    "a",
    " a",
    "   a   b    c     ",
    "Hello, world!",
    "The quick brown fox doesn't jump; it's they're we'll I'm he'd 've",
    "IT'S THEY'RE WE'LL I'M HE'D DON'T 'ſ 'S'T",
    "1", "12", "123", "1234", "12345", "a1b22c333d4444", "3.14159 1,000,000", " 7  77", "½²ⅷ٣٤٥१२三",
    "line one\nline two\r\nline three\rline four\n\n\n  indented\n\t\ttabs \n \n",
    "trailing spaces   \n   leading",
    "a\u00a0b\u2003c\u3000d\u200be\u2028f\u2029g\u0085h\u1680i\ufeffj",
    "\x00", "a\x00b\x00\x00c", "\x01\x02\x1b[31m\x7f\x80\x9f", "\x1c\x1d\x1e\x1f x\x0b\x0cy",
    "cafe\u0301 café \u1e9b\u0323 \u0041\u030a\u0327 e\u0301\u0301\u0301 \u212b \u2126",
    "Z\u0351\u036b\u0343\u036a\u0302a\u0348\u0345l\u0333g\u0321o\u0489",
    "ﬁ ﬂ ﬃ Ⅷ ① ㌀ ﷺ ﷽",
    "你好，世界。我们在学习中文！日本語のテキスト、カタカナ。한국어 문장입니다. 𠮷野家",
    "中文English混合123数字",
    "नमस्ते दुनिया क्ष स्त्री  สวัสดีชาวโลก  မြန်မာ  ᠮᠣᠩᠭᠣᠯ",
    "مرحبا بالعالم 123 \u202bשלום\u202c עולם \u200f!",
    "😀👍🏽👨‍👩‍👧‍👦🏳️‍🌈🇩🇪🇩 ✨️ 👩🏿‍🚀 #️⃣",
    "\U0001f600a\U00010348b\U000e0041c\U0010ffffd\ue000",
    "\ufffd \ufffe \uffff \ufffd\ufffd",
    "Привет, МИР! Γειά ΣΟΥ ς straße İstanbul ıI ǅ ʰ ª",
    "HTTPServer camelCase PascalCase snake_case_name SCREAMING_SNAKE aBcDeF XMLHttpRequest2",
    "foo(bar)[baz]{qux}<T>;:'\"`~!@#$%^&*-_=+\\|/?.,",
    "x=1;y=2\n#include <stdio.h>\nint main(void){return 0;}// end\n",
    "https://example.org/a/b?c=d&e=%20#f user@example.org",
    "!!!???...———  …。。。",
    "/\n//\n/// \r\n/a\n",
    "<s> and </s> and <unk> <pad>",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "a<|im_end|>b <|im_end|> c<|im_end", "<|im_end|><|im_end|>", " <|im_end|> ",
    "<0x41> <0x0A> ▁ ▁▁x Ġ Ċ ĠĠa",
    "<tool>call</tool> <tool>",
    "\"quoted\" ‘single’ “double” «guillemets» „low“ 'tis",
    "x\u200dy\u200cz \u00adsoft\u00adhyphen \u2060",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "                                                                x",
    "\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\ny",
    "0000000000000000000000000000000000000001",
]

LONG = [["a", 20000], [" ", 20000], ["\n", 5000], ["ab1 ", 5000], ["😀", 3000], ["中", 5000], ["9", 7777], ["the dog\n", 2000], ["\u0301", 3000]]

# --- tokenizers -------------------------------------------------------------------------------------

GPT2_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_SPLIT = LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")
QWEN35_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEKKEN_SPLIT = rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*|\p{{N}}{TAIL}"
SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
GPT4O_SPLIT = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{SUFFIX}|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{SUFFIX}|\p{{N}}{{1,3}}{TAIL}"
)
DEEPSEEK3_SPLIT = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def split(*patterns):
    return [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in patterns]


def byte_level(*before, use_regex=False):
    return pre_tokenizers.Sequence([*before, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)])


DIGITS = pre_tokenizers.Digits(individual_digits=True)
PRE_TOKENIZERS = {
    "gpt-2": (None, byte_level(use_regex=True)),
    "default": (None, byte_level(use_regex=True)),
    "smollm": (None, byte_level(DIGITS, use_regex=True)),
    "llama-bpe": (None, byte_level(*split(LLAMA3_SPLIT))),
    "qwen2": (normalizers.NFC(), byte_level(*split(QWEN2_SPLIT))),
    "deepseek-r1-qwen": (None, byte_level(*split(QWEN2_SPLIT))),
    "qwen35": (normalizers.NFC(), byte_level(*split(QWEN35_SPLIT))),
    "tekken": (None, byte_level(*split(TEKKEN_SPLIT))),
    "gpt-4o": (None, byte_level(*split(GPT4O_SPLIT))),
    "deepseek-coder": (
        None,
        byte_level(*split(r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+"), DIGITS),
    ),
    "deepseek-v3": (None, byte_level(*split(r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK3_SPLIT))),
}
IGNORES_MERGES = {"llama-bpe", "tekken", "gpt-4o"}
IM_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def special(text):
    return AddedToken(text, normalized=False, special=True)


def train_byte_level(pre_tokenizer, normalizer=None, vocab_size=400, extra=(), texts=TRAINING):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[special(text) for text in IM_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in extra])
    return tokenizer


def with_bos(tokenizer, bos, eos=None):
    specials = [(token, tokenizer.token_to_id(token)) for token in (bos, eos) if token]
    single = f"{bos} $A" + (f" {eos}" if eos else "")
    tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=specials)
    return tokenizer


def train_sentencepiece_style(pre_tokenizer, normalizer, decoder):
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<unk>", "<s>", "</s>"] + byte_tokens, limit_alphabet=60, show_progress=False
    )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.train_from_iterator(TRAINING, trainer)
    document = json.loads(tokenizer.to_str())
    document["added_tokens"] = document["added_tokens"][:3]
    document["model"].update(unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer.from_str(json.dumps(document))
    tokenizer.decoder = decoder
    return with_bos(tokenizer, "<s>")


def train_unigram():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=240, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(TRAINING, trainer)
    return with_bos(tokenizer, "<s>", "</s>")


def make_tokenizers():
    strip = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    llama3 = train_byte_level(*reversed(PRE_TOKENIZERS["llama-bpe"]))
    document = json.loads(llama3.to_str())
    document["model"]["ignore_merges"] = True
    llama3 = Tokenizer.from_str(json.dumps(document))
    single_word = train_byte_level(byte_level(use_regex=True), vocab_size=280)
    single_word.add_special_tokens([AddedToken("<tool>", lstrip=True, rstrip=True, special=True, normalized=False)])
    single_word.add_tokens([AddedToken("dog", single_word=True), AddedToken("  ", normalized=False)])
    return {
        "llama3": with_bos(llama3, "<|endoftext|>"),
        "qwen2": train_byte_level(*reversed(PRE_TOKENIZERS["qwen2"]), extra=["<tool>", "</tool>"]),
        "smollm": train_byte_level(*reversed(PRE_TOKENIZERS["smollm"])),
        "llama2_normalizer": train_sentencepiece_style(
            None,
            normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
            decoders.Sequence(strip),
        ),
        "llama2_metaspace": train_sentencepiece_style(
            pre_tokenizers.Metaspace(prepend_scheme="first", split=False), None, decoders.Sequence(strip)
        ),
        "unigram": train_unigram(),
        "added": single_word,
    }


def reference(tokenizer):
    """The tokenizer as Transformers wraps it."""
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False)


def fingerprint(ids):
    """Count and a polynomial hash: long texts need no long lists."""
    value = 0
    for token in ids:
        value = (value * 1000003 + token + 1) % (2**61 - 1)
    return [len(ids), value]


def ids_of(encode):
    return {"ids": [encode(text) for text in CORPUS], "long": [fingerprint(encode(piece * n)) for piece, n in LONG]}


def make_ids(tokenizer):
    wrapped = reference(tokenizer)
    plain = lambda text: wrapped.encode(text, add_special_tokens=False)
    result = ids_of(plain)
    result["around_hello"] = wrapped.encode("Hello")
    # Texts that do not come back as they went in; `null` for those that do.
    for name, skip in (("decoded", False), ("decoded_without_special", True)):
        texts = [wrapped.decode(plain(text), skip_special_tokens=skip) for text in CORPUS]
        result[name] = [None if out == text else out for out, text in zip(texts, CORPUS)]
    return result


def make_pre_tokenizers():
    """Merges learned across every boundary, so that a boundary in the wrong place changes the ids."""
    base = train_byte_level(byte_level(), vocab_size=1200, texts=2 * CORPUS)
    document = json.loads(base.to_str())
    result = {"vocab": document["model"]["vocab"], "merges": [" ".join(m) for m in document["model"]["merges"]], "pre": {}}
    for name, (normalizer, pre_tokenizer) in PRE_TOKENIZERS.items():
        variant = copy.deepcopy(document)
        variant["model"]["ignore_merges"] = name in IGNORES_MERGES
        tokenizer = Tokenizer.from_str(json.dumps(variant))
        tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer
        result["pre"][name] = ids_of(lambda text: reference(tokenizer).encode(text, add_special_tokens=False))
    return result


def make_sentencepiece():
    result = {}
    for name, dummy_prefix in (("add_space_prefix", True), ("no_space_prefix", False)):
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(TRAINING),
            model_writer=model,
            model_type="bpe",
            vocab_size=620,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=dummy_prefix,
            allow_whitespace_only_pieces=True,
            split_digits=True,
            character_coverage=0.98,
            user_defined_symbols=["<tool>"],
            num_threads=1,
            minloglevel=2,
        )
        processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
        size = range(processor.vocab_size())
        kinds = [
            (processor.is_unknown, 2), (processor.is_control, 3), (processor.is_unused, 5), (processor.is_byte, 6),
        ]
        types = [next((code for test, code in kinds if test(i)), 1) for i in size]
        types[processor.piece_to_id("<tool>")] = 4
        result[name] = {
            "tokens": [processor.id_to_piece(i) for i in size],
            "scores": [round(processor.get_score(i), 6) for i in size],
            "token_types": types,
            **ids_of(lambda text: processor.encode(text)),
            "decoded": [None if processor.decode(processor.encode(t)) == t else processor.decode(processor.encode(t)) for t in CORPUS],
        }
    return result


# --- chat templates ---------------------------------------------------------------------------------

TEMPLATES = {
    "chatml": {
        "eos": "<|im_end|>",
        "source": "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
        "{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}"
        "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    },
    "llama2": {
        "bos": "<s>",
        "eos": "</s>",
        "source": """{% if messages[0]['role'] == 'system' %}
{% set rest = messages[1:] %}
{% set system = messages[0]['content'] %}
{% else %}
{% set rest = messages %}
{% set system = false %}
{% endif %}
{% for message in rest %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Roles must alternate user/assistant/user/...') }}
{% endif %}
{% if loop.index0 == 0 and system != false %}
{% set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + message['content'] %}
{% else %}
{% set content = message['content'] %}
{% endif %}
{% if message['role'] == 'user' %}
{{- bos_token + '[INST] ' + content.strip() + ' [/INST]' -}}
{% elif message['role'] == 'assistant' %}
{{- ' '  + content | trim + ' ' + eos_token -}}
{% endif %}
{% endfor %}
""",
    },
    "llama3": {
        "bos": "<|begin_of_text|>",
        "eos": "<|eot_id|>",
        "source": """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{#- The system message comes first, with the date. #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Tools: " + tools | tojson(indent=4) }}
{%- endif %}
{{- "Today: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- else %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
""",
    },
    "mistral": {
        "bos": "<s>",
        "eos": "</s>",
        "source": """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace() %}
{%- set ns.index = 0 %}
{%- for message in loop_messages %}
    {%- if not (message.role == "tool" or (message.tool_calls is defined and message.tool_calls is not none)) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("After the optional system message, roles must alternate") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported, got " + message["role"] + "!") }}
    {%- endif %}
{%- endfor %}
{{- user_messages | length }}
""",
    },
    "qwen2": {
        "eos": "<|im_end|>",
        "source": """{%- if tools %}
    {{- '<|im_start|>system\\n' }}{%- for tool in tools %}{{- tool | tojson }}{%- endfor %}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' }}
        {{- message.content }}
        {{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
""",
    },
    "qwen3": {
        "eos": "<|im_end|>",
        "source": """{%- set ns = namespace(multi_step=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if message.role == "assistant" %}
        {%- set reasoning = '' %}
        {%- if '</think>' in content %}
            {%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last and (loop.last or reasoning) %}
            {{- '<|im_start|>assistant\\n<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}""",
    },
    "gemma": {
        "bos": "<bos>",
        "source": """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set first_user_prefix = messages[0]['content'] + '

' -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '
' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}{{ item['text'] | trim }}{%- endfor -%}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>
' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model
'}}
{%- endif -%}
""",
    },
    "deepseek": {
        "bos": "<｜begin▁of▁sentence｜>",
        "eos": "<｜end▁of▁sentence｜>",
        "source": "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}"
        "{% set ns = namespace(is_first=false, is_tool=false, system_prompt='', is_first_sp=true) %}"
        "{%- for message in messages %}{%- if message['role'] == 'system' %}{%- if ns.is_first_sp %}"
        "{% set ns.system_prompt = ns.system_prompt + message['content'] %}{% set ns.is_first_sp = false %}{%- else %}"
        "{% set ns.system_prompt = ns.system_prompt + '\\n\\n' + message['content'] %}{%- endif %}{%- endif %}{%- endfor %}"
        "{{ bos_token }}{{ ns.system_prompt }}{%- for message in messages %}"
        "{%- if message['role'] == 'user' %}{%- set ns.is_tool = false -%}{{'<｜User｜>' + message['content']}}{%- endif %}"
        "{%- if message['role'] == 'assistant' and message['content'] is not none %}"
        "{% set content = message['content'] %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}"
        "{{'<｜Assistant｜>' + content + eos_token}}{%- endif %}{%- endfor -%}"
        "{% if add_generation_prompt and not ns.is_tool %}{{'<｜Assistant｜><think>\\n'}}{% endif %}",
    },
    "whitespace": {
        "source": "  {% if true %}  \n  a\n{% endif %}\n\n  {# note #}  \nb {{- ' c ' -}} d\n{%+ if true %}e{% endif %}\n\t{% set x = 1 %}\nend\r\nline\r\n{{ 'q\\tr\\u00e9\\x41' }}\n\n",
    },
    "methods": {
        "bos": "<s>",
        "source": """{% for m in messages %}
[{{ m.content.strip() }}|{{ m.content.lstrip() }}|{{ m.content.rstrip() }}|{{ m.content | trim }}|{{ m.content.split() | join('+') }}|{{ m.content.split(' ', 1) | length }}|{{ m.content.rsplit(' ', 1) | join('/') }}|{{ m.content.splitlines() | join('~') }}]
{{ m.content.upper() }} {{ m.content.lower() }} {{ m.content.title() }} {{ m.content.capitalize() }} {{ m.content.replace('o', '0') }} {{ m.content.replace('o', '0', 1) }} {{ m.content.find('o') }} {{ m.content.rfind('o') }} {{ m.content.count('l') }} {{ m.content.startswith('He') }} {{ m.content.endswith(('!', '.')) }} {{ m.content.removeprefix('He') }} {{ m.content.removesuffix('!') }} {{ m.content.partition(' ')[0] }} {{ m.content.isspace() }} {{ m.content.isdigit() }}
{{ m.content[:3] }} {{ m.content[-3:] }} {{ m.content[::2] }} {{ m.content[::-1] }} {{ m.content | length }}
{% endfor %}
{{ messages | map(attribute='role') | join(', ') }} {{ messages | map(attribute='role') | unique | list | length }}
{{ messages | rejectattr('role', 'equalto', 'user') | list | length }} {{ (messages | first).role }} {{ (messages | last).role }}
{{ none }} {{ true }} {{ false }} {{ 1.0 }} {{ 0.1 + 0.2 }} {{ 7 // 2 }} {{ 7 / 2 }} {{ -7 % 3 }} {{ 2 ** 10 }} {{ missing }} {{ missing | default('d') }} {{ '%s-%d' | format('a', 5) }} {{ "{}:{}".format('x', 1) }} {{ 'a' ~ 1 ~ none }} {{ 'ab' * 3 }} {{ [1, 'b', none] }} {{ (1, 2) }}
{% set d = {'k': 1, 'z': [1, 2.5, {'a': none}], 's': 'ü"\\\\\\n\\x1f</'} %}{{ d | tojson }} {{ d | tojson(indent=2) }} {{ d.items() | list | length }} {{ d.get('k') }} {{ d.get('nope', 'dflt') }} {{ d.keys() | list | join(',') }} {% for k, v in d.items() %}{{ k }};{% endfor %} {{ d | tojson(sort_keys=true, separators=(',', ':')) }} {{ 'é' | tojson(ensure_ascii=true) }} {{ 1e16 | tojson }} {{ 1e-7 | tojson }} {{ 1.5 | tojson }} {{ [] | tojson }} {{ [[]] | tojson(indent=1) }} {{ {} | tojson(indent=1) }}
{% for i in range(10) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 5 %}{% break %}{% endif %}{{ i }}{{ ',' if not loop.last }}{{ loop.previtem | default('-') }}{{ loop.cycle('x', 'y') }}{% else %}none{% endfor %}
{% macro greet(name, punct='!') %}Hi {{ name }}{{ punct }}{% endmacro %}{{ greet('Bo') }} {{ greet('Al', punct='?') }}
{% set ns = namespace(n=0) %}{% for m in messages if m.role == 'user' %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }} {% if messages is iterable and messages[0] is mapping and ns.n is number and 'x' is string and missing is not defined and none is none %}ok{% endif %}
{% generation %}inside{% endgeneration %}
{%- for m in messages -%}{%- generation -%} {{ m.role }} {%- endgeneration -%}{%- endfor %}
{% set block %}captured {{ bos_token }}{% endset %}{{ block | upper }} {{ eos_token }}{{ strftime_now('%Y-%m-%d %H:%M:%S %A %B %j %y %-d %e %I %p %%') }}
""",
    },
    "errors": {"source": "{{ messages[0].content.nope.deeper }}"},
}

CONVERSATIONS = [
    [{"role": "user", "content": "Hello there!"}],
    [{"role": "system", "content": " Be brief. "}, {"role": "user", "content": "  Hi\n"}],
    [
        {"role": "system", "content": "Sys <b>&amp;</b>"},
        {"role": "user", "content": "What's 1+1?\n\n"},
        {"role": "assistant", "content": "<think>\nEasy.\n</think>\n\nIt's 2."},
        {"role": "user", "content": "\x1c And in 中文 👍🏽? \x85"},
    ],
    [{"role": "user", "content": "a"}, {"role": "user", "content": "two in a row"}],
    [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": ""},
        {"role": "tool", "content": "{\"t\": 20}"},
        {"role": "tool", "content": "sunny\r\nall\x0bday"},
        {"role": "assistant", "content": "Sunny\tall day. "},
    ],
]
NOW = datetime(2026, 2, 3, 14, 5, 9)


class FrozenClock(datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


def render(template, conversation, generation_prompt, bos=None, eos=None):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), chat_template=template)
    tokenizer.bos_token, tokenizer.eos_token = bos, eos
    try:
        text = tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=generation_prompt)
        return {"text": text}
    except Exception as error:  # the message of raise_exception is part of what is promised
        kind = type(error).__name__
        return {"raised": str(error)} if kind == "TemplateError" else {"error": kind}


def make_chat_templates():
    chat_template_utils.datetime = FrozenClock
    templates = []
    for name, template in TEMPLATES.items():
        bos, eos = template.get("bos"), template.get("eos")
        rendered = [
            [render(template["source"], conversation, prompt, bos, eos) for prompt in (False, True)]
            for conversation in CONVERSATIONS
        ]
        templates.append({"name": name, "source": template["source"], "bos": bos, "eos": eos, "rendered": rendered})
    return {"unix_time": int((NOW - datetime(1970, 1, 1)).total_seconds()), "conversations": CONVERSATIONS, "templates": templates}


# --- the real model ---------------------------------------------------------------------------------

SMOLLM2_CONVERSATIONS = CONVERSATIONS[:3] + [
    [{"role": "user", "content": "Write a haiku about 2024 <|im_end|> and 12345."}],
    [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "你好！"}, {"role": "user", "content": "👋"}],
]


def smollm2(path):
    """The loader of Transformers drops the split of digits that `tokenizer.ggml.pre` asks for: put it back."""
    path = Path(path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
    tokenizer.backend_tokenizer.pre_tokenizer = PRE_TOKENIZERS["smollm"][1]
    return tokenizer


def make_smollm2(path):
    tokenizer = smollm2(path)
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False)
    ids = [{"text": text, "ids": encode(text)} for text in CORPUS + TRAINING]
    chat = [
        {
            "messages": conversation,
            "add_generation_prompt": prompt,
            "text": tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=prompt),
            "ids": encode(tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=prompt)),
        }
        for conversation in SMOLLM2_CONVERSATIONS
        for prompt in (True,)
    ]
    return ids, chat


def write(name, value):
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    (OUT / name).write_text(text + "\n")
    print(f"{name}: {len(text)} bytes")


def main():
    OUT.mkdir(exist_ok=True)
    write("corpus.json", {"versions": VERSIONS, "corpus": CORPUS, "long": LONG})
    made = make_tokenizers()
    write("tokenizers.json", {name: json.loads(tokenizer.to_str()) for name, tokenizer in made.items()})
    write("ids.json", {"versions": VERSIONS, **{name: make_ids(tokenizer) for name, tokenizer in made.items()}})
    write("pre_tokenizers.json", {"versions": VERSIONS, **make_pre_tokenizers()})
    write("sentencepiece.json", {"versions": VERSIONS, **make_sentencepiece()})
    write("chat_templates.json", {"versions": VERSIONS, **make_chat_templates()})
    if len(sys.argv) > 1:
        ids, chat = make_smollm2(sys.argv[1])
        write("smollm2_ids.json", ids)
        write("smollm2_chat.json", chat)


if __name__ == "__main__":
    main()
