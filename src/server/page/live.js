// How the server is doing: its state, its metrics of the last minutes, and what its start cost.

import { ask, isFinal, refusal } from "./api.js";
import { growth, hasRestarted, parse, quantile, total } from "./metrics.js";

const EVERY_MS = 2000;
const VERSION_EVERY_MS = 30_000;
const LATENCY_SPAN_MS = 60_000;
const CHART_SPAN_MS = 120_000;
const PATIENCE_MS = 10_000;

const find = (id) => document.getElementById(id);
const tell = (id, text) => {
  // An output that is written is read aloud by some readers: only what is new is.
  if (find(id).textContent !== text) find(id).textContent = text;
};

// Readings, oldest first: {at, metrics, speed}.
let readings = [];
// When the version was read; what was refused is asked for again only with another key.
let versionAt = -Infinity;
let isRefused = false;

// Reads now and then from here on; the returned function reads at once, all of it.
export function startLive() {
  let timer = null;
  let isReading = false;
  const read = async () => {
    clearTimeout(timer);
    if (isReading || document.hidden) return;
    isReading = true;
    await Promise.all([readState(), readMetrics(), readVersion()]);
    isReading = false;
    timer = setTimeout(read, EVERY_MS);
  };
  document.addEventListener("visibilitychange", read);
  read();
  return () => {
    versionAt = -Infinity;
    isRefused = false;
    read();
  };
}

async function readState() {
  const states = { ready: ["good", "ready"], draining: ["warn", "draining"], starting: ["warn", "starting"] };
  try {
    const response = await ask("health/ready", { signal: AbortSignal.timeout(PATIENCE_MS) });
    const { status } = await response.json();
    const [state, word] = states[status] ?? [response.ok ? "good" : "bad", String(status)];
    showState(state, word);
  } catch {
    showState("bad", "not reachable");
    // Whatever comes back may be another version.
    versionAt = -Infinity;
  }
}

function showState(state, word) {
  find("status").dataset.state = state;
  tell("status", word);
}

// Shows the note instead of the body, or the body without a note.
function note(part, text) {
  find(`${part}-note`).hidden = text === null;
  find(`${part}-body`).hidden = text !== null;
  if (text !== null) tell(`${part}-note`, text);
}

async function readMetrics() {
  if (isRefused) return;
  try {
    const response = await ask("metrics", { signal: AbortSignal.timeout(PATIENCE_MS) });
    if (!response.ok) {
      isRefused = isFinal(response);
      return note("live", await refusal(response));
    }
    const metrics = parse(await response.text());
    add(metrics, performance.now());
    note("live", null);
    showMetrics();
  } catch {
    if (readings.length === 0) note("live", "No figures yet.");
  }
}

function add(metrics, at) {
  const last = readings.at(-1);
  if (last && hasRestarted(metrics, last.metrics)) readings = [];
  const before = readings.at(-1);
  const speed = (name) => (before ? (growth(metrics, before.metrics, name) ?? 0) / ((at - before.at) / 1000) : null);
  readings.push({
    at,
    metrics,
    generated: speed("vllm:generation_tokens_total"),
    prompted: speed("vllm:prompt_tokens_total"),
  });
  readings = readings.filter((reading) => at - reading.at <= CHART_SPAN_MS);
}

function showMetrics() {
  const { at, metrics, generated, prompted } = readings.at(-1);
  const value = (name) => total(metrics, name);
  tell("running", whole(value("vllm:num_requests_running")));
  tell("waiting", whole(value("vllm:num_requests_waiting")));
  tell("tokens-per-second", rate(generated));
  tell("prompt-tokens-per-second", rate(prompted));
  share("kv", value("vllm:kv_cache_usage_perc"));

  const minute = readings.find((reading) => at - reading.at <= LATENCY_SPAN_MS)?.metrics;
  const isMeasured = quantile(metrics, minute, "vllm:time_to_first_token_seconds", 0.5) !== null;
  const earlier = isMeasured ? minute : null;
  tell("latency-span", isMeasured ? "last minute" : "since the start");
  const names = { ttft: "vllm:time_to_first_token_seconds", itl: "vllm:inter_token_latency_seconds" };
  for (const [id, name] of Object.entries(names)) {
    tell(`${id}-p50`, duration(quantile(metrics, earlier, name, 0.5)));
    tell(`${id}-p99`, duration(quantile(metrics, earlier, name, 0.99)));
  }

  const looked = (since) => growth(metrics, since, "vllm:prefix_cache_queries_total");
  const since = looked(minute) > 0 ? minute : null;
  share("prefix", looked(since) > 0 ? growth(metrics, since, "vllm:prefix_cache_hits_total") / looked(since) : null);
  chart(at);
}

function share(id, value) {
  tell(id, value === null ? "–" : `${(value * 100).toFixed(value < 0.1 ? 1 : 0)}%`);
  find(`${id}-meter`).value = value ?? 0;
}

// The area below the speed, on a field of 240 by 56.
function chart(now) {
  const points = readings.filter((reading) => reading.generated !== null);
  const peak = Math.max(0, ...points.map((reading) => reading.generated));
  tell("speed-peak", rate(points.length > 0 ? peak : null));
  const x = (at) => (240 * (1 - (now - at) / CHART_SPAN_MS)).toFixed(1);
  const y = (speed) => (55 - (52 * speed) / Math.max(peak, 1)).toFixed(1);
  const line = points.map((reading) => `${x(reading.at)} ${y(reading.generated)}`).join("L");
  const [linePath, areaPath] = [find("speed").querySelector(".line"), find("speed").querySelector(".area")];
  linePath.setAttribute("d", line === "" ? "" : `M${line}`);
  areaPath.setAttribute("d", line === "" ? "" : `M${x(points[0].at)} 56L${line}L240 56Z`);
}

async function readVersion() {
  if (performance.now() - versionAt < VERSION_EVERY_MS) return;
  try {
    const [version, models] = await Promise.all(
      ["version", "v1/models"].map((path) => ask(path, { signal: AbortSignal.timeout(PATIENCE_MS) })),
    );
    if (models.ok) showModels((await models.json()).data.map(({ id }) => id));
    versionAt = [version, models].some(isFinal) ? Infinity : performance.now();
    if (!version.ok) return note("start", await refusal(version));
    showVersion(await version.json());
    note("start", null);
  } catch {
    note("start", "Not known yet.");
  }
}

function showModels(names) {
  const select = find("models");
  if (names.join("\n") !== [...select.options].map(({ value }) => value).join("\n")) {
    select.replaceChildren(...names.map((name) => new Option(name, name)));
  }
  find("choose").hidden = names.length < 2;
  tell("model", names.join(", "));
}

function showVersion({ name, version, revision, backend, max_model_len: length, graphs, boot_seconds: boot }) {
  tell("graphs-from-cache", whole(graphs?.from_cache));
  tell("graphs-compiled", whole(graphs?.compiled));
  tell("graphs-late", whole(graphs?.compiled_after_ready));
  const phases = Object.entries(boot ?? {});
  const sum = phases.reduce((sum, [, seconds]) => sum + seconds, 0);
  tell("boot-total", duration(sum));
  find("boot").tBodies[0].replaceChildren(...phases.map(([phase, seconds]) => phaseRow(phase, seconds, sum)));
  const context = length ? `, context ${whole(length)} tokens` : "";
  tell("about", `${name} ${version} (${String(revision).slice(0, 12)}) on ${backend}${context}`);
}

function phaseRow(phase, seconds, sum) {
  const row = document.createElement("tr");
  const head = document.createElement("th");
  head.scope = "row";
  head.textContent = phase.replaceAll("_", " ");
  row.append(head);
  const meter = document.createElement("meter");
  meter.value = sum > 0 ? seconds / sum : 0;
  meter.ariaLabel = `share of ${phase}`;
  row.insertCell().append(meter);
  row.insertCell().textContent = duration(seconds);
  return row;
}

function whole(value) {
  return Number.isFinite(value) ? value.toLocaleString("en") : "–";
}

function rate(value) {
  if (value === null) return "–";
  return value >= 100 || value === 0 ? whole(Math.round(value)) : value.toFixed(1);
}

function duration(seconds) {
  if (seconds === null) return "–";
  if (seconds < 0.01) return `${(seconds * 1000).toFixed(1)} ms`;
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  return seconds < 100 ? `${seconds.toFixed(2)} s` : `${Math.round(seconds)} s`;
}
