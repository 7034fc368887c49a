// Reading `/metrics`, and what two readings say about the time between them.

const SAMPLE = /^([A-Za-z_:][\w:]*)(?:\{(.*)\})? (\S+)/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;

// A page of metrics: Map of name to [{labels, value}].
export function parse(text) {
  const metrics = new Map();
  for (const line of text.split("\n")) {
    const match = line.startsWith("#") ? null : SAMPLE.exec(line);
    if (!match) continue;
    const [, name, labelText = "", value] = match;
    const labels = Object.fromEntries([...labelText.matchAll(LABEL)].map(([, key, label]) => [key, unescaped(label)]));
    if (!metrics.has(name)) metrics.set(name, []);
    metrics.get(name).push({ labels, value: number(value) });
  }
  return metrics;
}

function unescaped(label) {
  return label.replace(/\\(.)/g, (_, letter) => (letter === "n" ? "\n" : letter));
}

function number(text) {
  return text === "+Inf" ? Infinity : Number(text);
}

// The sum over all series of a metric, or null when there is none.
export function total(metrics, name) {
  const series = metrics.get(name);
  return series ? series.reduce((sum, { value }) => sum + value, 0) : null;
}

// How much a counter grew since an earlier reading; without one, since it began.
export function growth(metrics, earlier, name) {
  const now = total(metrics, name);
  return now === null ? null : now - ((earlier && total(earlier, name)) ?? 0);
}

// Whether a counter went back: the server has been started anew.
export function hasRestarted(metrics, earlier) {
  const counters = ["vllm:generation_tokens_total", "vllm:prompt_tokens_total", "cairn_steps_total"];
  return counters.some((name) => growth(metrics, earlier, name) < 0);
}

// Counts of a histogram by upper bound, not cumulative: sorted [[bound, count]].
function buckets(metrics, earlier, name) {
  const cumulative = (page) => {
    const sums = new Map();
    for (const { labels, value } of page?.get(`${name}_bucket`) ?? []) {
      const bound = number(labels.le);
      sums.set(bound, (sums.get(bound) ?? 0) + value);
    }
    return sums;
  };
  const before = cumulative(earlier);
  const bounds = [...cumulative(metrics)].sort(([a], [b]) => a - b);
  let below = 0;
  return bounds.map(([bound, sum]) => {
    const upTo = sum - (before.get(bound) ?? 0);
    const count = upTo - below;
    below = upTo;
    return [bound, count];
  });
}

// What a share of the observations did not exceed, as Prometheus estimates it: evenly spread within
// a bucket, and the last bound for all that lies above it. Null when nothing was observed.
export function quantile(metrics, earlier, name, share) {
  const counts = buckets(metrics, earlier, name);
  const all = counts.reduce((sum, [, count]) => sum + count, 0);
  if (!(all > 0)) return null;
  let [lower, seen] = [0, 0];
  for (const [bound, count] of counts) {
    if (seen + count >= share * all && count > 0) {
      return bound === Infinity ? lower : lower + ((bound - lower) * (share * all - seen)) / count;
    }
    [lower, seen] = [bound, seen + count];
  }
  return lower;
}
