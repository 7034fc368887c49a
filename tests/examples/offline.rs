//! The engine as a library: several prompts at once, a conversation, and text as it is made.
//!
//! ```text
//! cargo run --release --example offline [MODEL]
//! ```

use std::error::Error;
use std::io::{self, Write as _};

use cairn::{ChatMessage, Engine, SamplingParams};

fn main() -> Result<(), Box<dyn Error>> {
    let model = std::env::args().nth(1).unwrap_or_else(|| "smollm2-135m-instruct".to_owned());
    let engine = Engine::builder(model).max_model_len(2048).build()?;
    let mut out = io::stdout().lock();

    let params =
        SamplingParams { temperature: 0.0, max_tokens: Some(24), ..SamplingParams::default() };
    let prompts = ["The capital of France is", "Water boils at", "Once upon a time"];
    for (prompt, completion) in prompts.iter().zip(engine.generate(&prompts, &params)?) {
        writeln!(out, "{prompt}{}", completion.text())?;
    }

    let messages =
        [ChatMessage::new("system", "Be brief."), ChatMessage::new("user", "Name three rivers.")];
    let answer = engine.chat(&messages, &params)?;
    writeln!(out, "{} ({} tokens)", answer.text(), answer.usage.completion_tokens)?;

    let params = SamplingParams { temperature: 0.8, seed: Some(7), ..params };
    for delta in engine.stream("A haiku about snow:", &params)? {
        write!(out, "{}", delta?.text)?;
        out.flush()?;
    }
    writeln!(out)?;
    Ok(())
}
