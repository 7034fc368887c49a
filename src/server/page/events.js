// What happened in the server's life, newest first.

import { ask, isFinal, refusal } from "./api.js";

const EVERY_MS = 5000;
const PATIENCE_MS = 10_000;
const MOST = 50;

const list = document.getElementById("event-list");
const note = document.getElementById("events-note");

// What was refused is asked for again only with another key.
let isRefused = false;

// Reads now and then from here on; the returned function reads at once.
export function startEvents() {
  let timer = null;
  let isReading = false;
  const read = async () => {
    clearTimeout(timer);
    if (isReading || isRefused || document.hidden) return;
    isReading = true;
    await readEvents();
    isReading = false;
    timer = setTimeout(read, EVERY_MS);
  };
  document.addEventListener("visibilitychange", read);
  read();
  return () => {
    isRefused = false;
    read();
  };
}

async function readEvents() {
  try {
    const response = await ask(`admin/events?order=desc&limit=${MOST}`, { signal: AbortSignal.timeout(PATIENCE_MS) });
    if (response.ok) {
      return show((await response.json()).data);
    }
    isRefused = isFinal(response);
    list.replaceChildren();
    if (response.status === 404) tell("This address shows no events.");
    else if (response.status === 403) tell("Events are for operators: the API key in Settings is not an operator's.");
    else tell(await refusal(response));
  } catch {
    if (list.children.length === 0) tell("No events could be read.");
  }
}

function tell(text) {
  note.hidden = text === null;
  if (text !== null && note.textContent !== text) note.textContent = text;
}

function show(events) {
  const shown = events.map(({ seq }) => seq).join();
  tell(events.length === 0 ? "none yet" : null);
  if (list.dataset.shown === shown && list.children.length === events.length) return;
  list.dataset.shown = shown;
  list.replaceChildren(...events.map(item));
}

function item({ time, level, kind, message, remedy }) {
  const made = document.createElement("li");
  made.dataset.level = String(level).toLowerCase();
  const head = document.createElement("p");
  head.className = "note";
  const when = new Date(typeof time === "number" ? time * 1000 : time);
  const clock = document.createElement("time");
  if (Number.isFinite(when.getTime())) {
    clock.dateTime = when.toISOString();
    clock.textContent = when.toLocaleString();
  }
  const what = document.createElement("span");
  const words = String(kind).replaceAll(/[_-]/g, " ");
  what.textContent = made.dataset.level === "abnormal" ? `${words}, abnormal` : words;
  head.append(what, clock);
  made.append(head, paragraph("", message));
  if (remedy) made.append(paragraph("remedy", remedy));
  return made;
}

function paragraph(className, text) {
  const made = document.createElement("p");
  made.className = className;
  made.textContent = text;
  return made;
}
