// A conversation with the model, streamed.
//
// Nothing of it is kept anywhere but in this page. What the model says goes into text nodes only:
// see markdown.js.

import { ask, refusal } from "./api.js";
import { show } from "./markdown.js";

const find = (id) => document.getElementById(id);
const log = find("log");
const prompt = find("prompt");
const welcome = find("welcome");

// What the model is told next time: {role, content}.
let messages = [];
// Ends the answer that is being streamed.
let running = null;

export function startChat() {
  find("compose").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  prompt.addEventListener("keydown", (event) => {
    // While a word is composed, Enter chooses a candidate.
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      send();
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") running?.abort();
  });
  find("stop").addEventListener("click", () => running?.abort());
  find("clear").addEventListener("click", clear);
}

function clear() {
  running?.abort();
  messages = [];
  log.replaceChildren(welcome);
  find("clear").disabled = true;
  prompt.focus();
}

async function send() {
  const text = prompt.value.trim();
  if (text === "" || running) return;
  if (!find("temperature").reportValidity() || !find("max-tokens").reportValidity()) return;
  welcome.remove();
  prompt.value = "";
  find("clear").disabled = false;
  const asked = { role: "user", content: text };
  userTurn(text);
  const turn = answerTurn();
  log.scrollTop = log.scrollHeight;

  const control = new AbortController();
  setRunning(control);
  const history = messages;
  const answer = { content: "", reasoning: "", usage: null, reason: null, start: performance.now(), first: null };
  let problem = null;
  try {
    await stream([...history, asked], answer, turn, control.signal);
  } catch (error) {
    if (control.signal.aborted) answer.reason = "stopped";
    else problem = error instanceof Refused ? error.message : "The connection to the server was lost.";
  }
  turn.end(answer, problem);
  // A question without an answer is asked again by whoever wants to, and not told twice. A
  // conversation that was cleared meanwhile stays so.
  if (messages === history && (answer.content !== "" || !problem)) {
    messages = [...history, asked, { role: "assistant", content: answer.content }];
  } else if (messages === history && prompt.value === "") {
    prompt.value = text;
  }
  setRunning(null);
}

function setRunning(control) {
  const hadFocus = document.activeElement === find("stop") || document.activeElement === find("send");
  running = control;
  find("send").hidden = control !== null;
  find("stop").hidden = control === null;
  if (hadFocus) (control ? find("stop") : prompt).focus();
}

// A refusal in words that are meant for the user.
class Refused extends Error {}

function body(conversation) {
  const system = find("system").value.trim();
  const fields = {
    model: find("models").value || undefined,
    messages: system === "" ? conversation : [{ role: "system", content: system }, ...conversation],
    stream: true,
    stream_options: { include_usage: true },
  };
  if (find("temperature").value !== "") fields.temperature = find("temperature").valueAsNumber;
  if (find("max-tokens").value !== "") fields.max_completion_tokens = find("max-tokens").valueAsNumber;
  return fields;
}

async function stream(conversation, answer, turn, signal) {
  const response = await ask("v1/chat/completions", { body: body(conversation), signal });
  if (!response.ok) throw new Refused(await refusal(response));
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Refused(chunk.error.message ?? "The server could not go on.");
    answer.usage = chunk.usage ?? answer.usage;
    for (const { delta, finish_reason: reason } of chunk.choices ?? []) {
      const reasoning = delta?.reasoning_content ?? delta?.reasoning ?? "";
      const content = delta?.content ?? "";
      answer.reason = reason ?? answer.reason;
      if (reasoning === "" && content === "") continue;
      answer.first ??= performance.now();
      answer.reasoning += reasoning;
      answer.content += content;
      turn.update(answer);
    }
  }
  throw new Refused("The answer ended early: the server closed the connection.");
}

// The `data` of each server-sent event of a body.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      // Only what is new is looked through: an event ends with an empty line.
      const found = (rest + value).replaceAll("\r\n", "\n").split("\n\n");
      rest = found.pop();
      for (const event of found) {
        const data = event.split("\n").filter((line) => line.startsWith("data:"));
        if (data.length > 0) yield data.map((line) => line.slice(5).trimStart()).join("\n");
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function element(tag, className, text) {
  const made = document.createElement(tag);
  made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function addTurn(kind, name) {
  const turn = element("article", `turn ${kind}`);
  turn.append(element("h3", "unseen", name));
  log.append(turn);
  return turn;
}

function userTurn(text) {
  addTurn("user", "You").append(element("div", "text", text));
}

// The answer's place: `update` shows what has come so far at the next frame, `end` says how it ended.
function answerTurn() {
  const turn = addTurn("assistant", "Model");
  const thinking = element("details", "thinking");
  const thoughts = element("div", "");
  thinking.append(element("summary", "", "Thinking"), thoughts);
  thinking.hidden = true;
  const text = element("div", "text");
  const foot = element("p", "foot note", "waiting");
  turn.append(thinking, text, foot);
  turn.ariaBusy = "true";
  let frame = null;

  const draw = (answer) => {
    frame = null;
    const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 48;
    thinking.hidden = answer.reasoning === "";
    if (thoughts.textContent !== answer.reasoning) thoughts.textContent = answer.reasoning;
    show(text, answer.content);
    if (isAtEnd) log.scrollTop = log.scrollHeight;
  };
  return {
    update(answer) {
      foot.textContent = answer.content === "" ? "thinking" : "writing";
      frame ??= requestAnimationFrame(() => draw(answer));
    },
    end(answer, problem) {
      if (frame !== null) cancelAnimationFrame(frame);
      turn.ariaBusy = "false";
      foot.textContent = problem ?? summary(answer);
      foot.classList.toggle("error", problem !== null);
      find("spoken").textContent = problem ?? `The model says: ${answer.content.slice(0, 2000)}`;
      draw(answer);
    },
  };
}

function summary({ usage, reason, start, first }) {
  const parts = [];
  if (reason === "stopped") parts.push("stopped");
  if (reason === "length") parts.push("cut at the most tokens");
  if (usage) parts.push(`${usage.completion_tokens} tokens`);
  if (first !== null) {
    const seconds = (performance.now() - first) / 1000;
    // Of an answer that came at once the speed is not known.
    if (usage?.completion_tokens > 1 && seconds > 0.02) parts.push(`${((usage.completion_tokens - 1) / seconds).toFixed(1)} tokens/s`);
    parts.push(`first after ${Math.round(first - start)} ms`);
  }
  return parts.join(" · ") || "nothing was said";
}
