//! Arguments as Python writes them, as JSON: `(city="Lyon", days=[1, 2])`.
//!
//! What this module deliberately does not do: evaluate. Arguments are named, and their values are
//! strings, numbers, `True`, `False`, `None`, lists, tuples and dicts of those.

/// Deeper values are no arguments.
const MAX_DEPTH: usize = 64;

/// Finds the parenthesis that closes a call whose opening one has been read.
#[derive(Clone, Debug, Default)]
pub(super) struct Scan {
    /// Brackets that are open besides the call's own.
    depth: usize,
    quote: Option<char>,
    is_escaped: bool,
}

impl Scan {
    /// Takes the next character; whether the call has ended with it.
    pub(super) fn push(&mut self, character: char) -> bool {
        if let Some(quote) = self.quote {
            match character {
                _ if self.is_escaped => self.is_escaped = false,
                '\\' => self.is_escaped = true,
                _ if character == quote => self.quote = None,
                _ => {}
            }
            return false;
        }
        match character {
            '"' | '\'' => self.quote = Some(character),
            '(' | '[' | '{' => self.depth += 1,
            ')' | ']' | '}' if self.depth > 0 => self.depth -= 1,
            ')' => return true,
            _ => {}
        }
        false
    }
}

/// The arguments of `name(key=value, ..)`, whatever stands before the name, as an object.
pub(super) fn arguments_of(call: &str) -> Option<String> {
    let (_, rest) = call.split_once('(')?;
    let mut reader = Reader { rest, json: String::from("{") };
    reader.items(')', 0, |reader| {
        let end = reader.rest.find(|c: char| !c.is_alphanumeric() && c != '_')?;
        let (key, rest) = reader.rest.split_at(end);
        reader.rest = rest;
        reader.write_string(key);
        reader.pair('=', 0)
    })?;
    reader.json.push('}');
    reader.rest.is_empty().then_some(reader.json)
}

struct Reader<'a> {
    rest: &'a str,
    json: String,
}

impl Reader<'_> {
    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn take(&mut self, expected: char) -> bool {
        self.skip_space();
        let rest = self.rest.strip_prefix(expected);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn write_string(&mut self, text: &str) {
        self.json.push_str(&serde_json::Value::from(text).to_string());
    }

    /// Items between commas up to the bracket that closes.
    fn items(
        &mut self,
        close: char,
        depth: usize,
        mut item: impl FnMut(&mut Self) -> Option<()>,
    ) -> Option<()> {
        if depth > MAX_DEPTH {
            return None;
        }
        let mut is_first = true;
        while !self.take(close) {
            if !is_first {
                self.json.push_str(", ");
            }
            is_first = false;
            self.skip_space();
            item(self)?;
            if !self.take(',') {
                return self.take(close).then_some(());
            }
        }
        Some(())
    }

    /// What follows a key.
    fn pair(&mut self, sign: char, depth: usize) -> Option<()> {
        if !self.take(sign) {
            return None;
        }
        self.json.push_str(": ");
        self.value(depth)
    }

    fn value(&mut self, depth: usize) -> Option<()> {
        self.skip_space();
        match self.rest.chars().next()? {
            '"' | '\'' => {
                let text = self.string()?;
                self.write_string(&text);
            }
            open @ ('[' | '(') => {
                self.rest = &self.rest[1..];
                self.json.push('[');
                let close = if open == '[' { ']' } else { ')' };
                self.items(close, depth + 1, |reader| reader.value(depth + 1))?;
                self.json.push(']');
            }
            '{' => {
                self.rest = &self.rest[1..];
                self.json.push('{');
                self.items('}', depth + 1, |reader| {
                    let key = reader.string()?;
                    reader.write_string(&key);
                    reader.pair(':', depth + 1)
                })?;
                self.json.push('}');
            }
            _ => {
                let is_word = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '+' | '_');
                let end = self.rest.find(|c| !is_word(c)).unwrap_or(self.rest.len());
                let (word, rest) = self.rest.split_at(end);
                self.rest = rest;
                self.json.push_str(&match word {
                    "True" | "true" => "true".to_owned(),
                    "False" | "false" => "false".to_owned(),
                    "None" | "null" => "null".to_owned(),
                    _ => word.parse::<serde_json::Number>().ok()?.to_string(),
                });
            }
        }
        Some(())
    }

    fn string(&mut self) -> Option<String> {
        let mut characters = self.rest.chars();
        let quote = characters.next().filter(|c| matches!(c, '"' | '\''))?;
        let mut text = String::new();
        loop {
            match characters.next()? {
                '\\' => match characters.next()? {
                    'n' => text.push('\n'),
                    't' => text.push('\t'),
                    'r' => text.push('\r'),
                    'x' => text.push(code_point(&mut characters, 2)?),
                    'u' => text.push(code_point(&mut characters, 4)?),
                    'U' => text.push(code_point(&mut characters, 8)?),
                    '\n' => {}
                    other @ ('\\' | '\'' | '"') => text.push(other),
                    // Python keeps the backslash of an escape that it does not know.
                    other => text.extend(['\\', other]),
                },
                character if character == quote => break,
                character => text.push(character),
            }
        }
        self.rest = characters.as_str();
        Some(text)
    }
}

fn code_point(characters: &mut std::str::Chars<'_>, num_digits: usize) -> Option<char> {
    let mut code = 0;
    for _ in 0..num_digits {
        code = code * 16 + characters.next()?.to_digit(16)?;
    }
    char::from_u32(code)
}
