// Checks a running server with the official OpenAI client for Node.
//
//     node openai_node.mjs http://127.0.0.1:8000 [--key KEY] [--model MODEL] [--only A,B] [--skip A,B]
//
// Every line of the output is one check; the exit code is 1 when one fails. What the model says does
// not matter, so any model will do.

import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import OpenAI, { toFile } from "openai";
import { VERSION } from "openai/version";
import { parse, run } from "./checks.mjs";

const { base, key, flags } = parse(process.argv.slice(2));
const client = new OpenAI({ baseURL: `${base}/v1`, apiKey: key ?? "none", maxRetries: 0, timeout: 120_000 });
const model = flags.model ?? (await client.models.list()).data[0].id;

const messages = [{ role: "user", content: "Say hello." }];
// Enough for any answer that a grammar bounds, and an end for those that it does not.
const ROOM = 400;
const choices = { city: ["Bern", "Graz"], unit: ["C", "F"] };
// Its arguments cannot go on for ever, whatever a model with random weights says.
const weather = {
  name: "weather",
  strict: true,
  parameters: {
    type: "object",
    properties: Object.fromEntries(Object.entries(choices).map(([name, values]) => [name, { type: "string", enum: values }])),
    required: Object.keys(choices),
    additionalProperties: false,
  },
};
const tools = [{ type: "function", function: weather }];

function assertWeather(text) {
  const found = JSON.parse(text);
  assert.deepEqual(Object.keys(found).sort(), Object.keys(choices), text);
  for (const [name, values] of Object.entries(choices)) assert.ok(values.includes(found[name]), text);
}

async function collect(stream) {
  const found = [];
  for await (const item of stream) found.push(item);
  return found;
}

const checks = {
  models: {
    async models_are_listed_and_found() {
      const listed = await collect(client.models.list());
      assert.ok(listed.some(({ id }) => id === model));
      assert.equal((await client.models.retrieve(model)).object, "model");
    },
  },

  chat: {
    async a_chat_stream_adds_up_to_the_whole() {
      const fields = { model, messages, max_tokens: 12, temperature: 0, ignore_eos: true };
      const whole = await client.chat.completions.create(fields);
      assert.equal(whole.usage.completion_tokens, 12);
      const stream = await client.chat.completions.create({ ...fields, stream: true, stream_options: { include_usage: true } });
      const chunks = await collect(stream);
      assert.equal(chunks.at(-1).usage.total_tokens, whole.usage.total_tokens);
      const text = chunks.map(({ choices }) => choices[0]?.delta.content ?? "").join("");
      assert.equal(text, whole.choices[0].message.content);
    },

    async the_stream_helper_accumulates() {
      const runner = client.chat.completions.stream({ model, messages, max_tokens: 6, temperature: 0, ignore_eos: true });
      let text = "";
      runner.on("content", (delta) => (text += delta));
      const final = await runner.finalChatCompletion();
      assert.equal(final.choices[0].message.content, text);
    },

    async choices_and_logprobs_come_along() {
      const answer = await client.chat.completions.create({
        model, messages, n: 2, seed: 7, temperature: 1, max_tokens: 4, logprobs: true, top_logprobs: 2, ignore_eos: true,
      });
      assert.deepEqual(answer.choices.map(({ index }) => index), [0, 1]);
      for (const { logprobs } of answer.choices) assert.equal(logprobs.content.length, 4);
    },

    async a_stream_can_be_left() {
      const stream = await client.chat.completions.create({ model, messages, stream: true, max_tokens: 500, ignore_eos: true });
      for await (const _ of stream) break;
      const control = new AbortController();
      const call = client.chat.completions.create({ model, messages, max_tokens: 500, ignore_eos: true }, { signal: control.signal });
      control.abort();
      await assert.rejects(call, OpenAI.APIUserAbortError);
    },

    async raw_responses_have_their_headers() {
      const { data, response } = await client.chat.completions
        .create({ model, messages, max_tokens: 1 }, { headers: { "x-request-id": "check-2" } })
        .withResponse();
      assert.equal(response.headers.get("x-request-id"), "check-2");
      assert.equal(data.object, "chat.completion");
    },
  },

  completions: {
    async completions_take_several_prompts_and_stream() {
      const fields = { model, prompt: ["Once upon", "Two roads"], max_tokens: 4, temperature: 0, ignore_eos: true };
      const whole = await client.completions.create({ ...fields, logprobs: 2 });
      assert.deepEqual(whole.choices.map(({ index }) => index), [0, 1]);
      const texts = ["", ""];
      for await (const { choices } of await client.completions.create({ ...fields, stream: true })) {
        for (const { index, text } of choices) texts[index] += text;
      }
      assert.deepEqual(texts, whole.choices.map(({ text }) => text));
    },
  },

  errors: {
    async errors_have_their_class() {
      const create = (fields, options) => client.chat.completions.create({ model, messages, ...fields }, options);
      await assert.rejects(create({ temperature: -1 }), (error) => {
        assert.ok(error instanceof OpenAI.BadRequestError);
        assert.equal(error.param, "temperature");
        assert.equal(error.type, "invalid_request_error");
        return true;
      });
      await assert.rejects(create({ model: "no such" }), (error) => {
        assert.ok(error instanceof OpenAI.NotFoundError);
        assert.equal(error.code, "model_not_found");
        return true;
      });
      await assert.rejects(create({ max_tokens: 500, ignore_eos: true }, { timeout: 5 }), OpenAI.APIConnectionTimeoutError);
    },
  },

  tools: {
    async a_required_tool_is_called_whole_and_streamed() {
      const fields = { model, messages, tools, tool_choice: "required", parallel_tool_calls: false, temperature: 0, max_tokens: ROOM };
      const whole = await client.chat.completions.create(fields);
      assert.equal(whole.choices[0].finish_reason, "tool_calls");
      const [call] = whole.choices[0].message.tool_calls;
      assert.equal(call.function.name, "weather");
      assertWeather(call.function.arguments);
      const streamed = await client.chat.completions.stream(fields).finalChatCompletion();
      assert.deepEqual(streamed.choices[0].message.tool_calls[0].function.arguments, call.function.arguments);
      const told = [...messages, whole.choices[0].message, { role: "tool", tool_call_id: call.id, content: "12 degrees" }];
      await client.chat.completions.create({ model, messages: told, tools, max_tokens: 4 });
    },
  },

  structured: {
    async an_answer_follows_its_schema() {
      const schema = { ...weather.parameters };
      const completion = await client.chat.completions.parse({
        model, messages, max_tokens: ROOM,
        response_format: { type: "json_schema", json_schema: { name: "weather", schema, strict: true } },
      });
      assertWeather(completion.choices[0].message.content);
    },
  },

  responses: {
    async a_response_stream_adds_up() {
      const fields = { model, input: "Say hello.", max_output_tokens: 24, temperature: 0 };
      const whole = await client.responses.create(fields);
      const events = await collect(await client.responses.create({ ...fields, stream: true }));
      assert.equal(events[0].type, "response.created");
      assert.equal(events.at(-1).type, `response.${whole.status}`);
      const text = events.filter(({ type }) => type === "response.output_text.delta").map(({ delta }) => delta).join("");
      assert.equal(text, whole.output_text);
      const final = await client.responses.stream(fields).finalResponse();
      assert.equal(final.output_text, text);
    },

    async a_response_calls_tools() {
      const answer = await client.responses.create({
        model, input: "Say hello.", tools: [{ type: "function", ...weather }], tool_choice: "required", max_output_tokens: ROOM,
      });
      const calls = answer.output.filter(({ type }) => type === "function_call");
      assert.ok(calls.length > 0);
      for (const call of calls) assertWeather(call.arguments);
    },
  },

  embeddings: {
    async embeddings_are_unit_vectors() {
      const { data } = await client.embeddings.create({ model, input: ["stone", "moss"] });
      const float = await client.embeddings.create({ model, input: "stone", encoding_format: "float" });
      for (const { embedding } of data) assert.ok(Math.abs(Math.hypot(...embedding) - 1) < 1e-3);
      data[0].embedding.forEach((value, i) => assert.ok(Math.abs(value - float.data[0].embedding[i]) < 1e-3));
    },
  },

  batches: {
    async a_batch_is_answered() {
      const line = (id) => JSON.stringify({ custom_id: id, method: "POST", url: "/v1/chat/completions", body: { model, messages, max_tokens: 4 } });
      const file = await client.files.create({ file: await toFile(Buffer.from(["a", "b"].map(line).join("\n")), "jobs.jsonl"), purpose: "batch" });
      let batch = await client.batches.create({ input_file_id: file.id, endpoint: "/v1/chat/completions", completion_window: "24h" });
      for (let i = 0; i < 600 && ["validating", "in_progress", "finalizing"].includes(batch.status); i++) {
        await sleep(200);
        batch = await client.batches.retrieve(batch.id);
      }
      assert.equal(batch.status, "completed");
      const text = await (await client.files.content(batch.output_file_id)).text();
      assert.deepEqual(text.trim().split("\n").map((line) => JSON.parse(line).custom_id).sort(), ["a", "b"]);
      assert.ok((await client.files.delete(file.id)).deleted);
    },
  },
};

const all = Object.entries(checks).flatMap(([group, named]) => Object.entries(named).map(([name, check]) => [group, name, check]));
process.exit((await run(all, flags, `openai for Node ${VERSION}`)) ? 1 : 0);
