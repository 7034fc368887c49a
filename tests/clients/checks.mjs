// What the checks in JavaScript share: their arguments, and the line that each prints.

// BASE_URL [--key KEY] [--model MODEL] [--only A,B] [--skip A,B] and more flags with a value.
export function parse(args) {
  const [url, ...rest] = args;
  if (!url || url.startsWith("-") || rest.length % 2 !== 0) {
    console.error("usage: node SCRIPT BASE_URL [--key KEY] [--only A,B] [--skip A,B]");
    process.exit(2);
  }
  const flags = {};
  for (let i = 0; i < rest.length; i += 2) flags[rest[i].replace(/^--/, "")] = rest[i + 1];
  return { base: url.replace(/\/+$/, ""), key: flags.key, flags };
}

// The groups of all checks; a word of `--only` or `--skip` that is none of these is part of a name.
const GROUPS = [
  "page", "models", "chat", "completions", "errors", "tools", "structured", "responses", "embeddings", "batches",
];

// Runs [group, name, function] in order and says of each how it went; returns how many failed.
export async function run(checks, { only, skip }, with_what) {
  const words = (list) => (list ?? "").split(",").filter((word) => word !== "");
  const is = (group, name, list) =>
    words(list).some((word) => (GROUPS.includes(word) ? word === group : name.includes(word.replaceAll("_", " "))));
  let [passed, failed, skipped] = [0, 0, 0];
  for (const [group, underscored, check] of checks) {
    const name = underscored.replaceAll("_", " ");
    const said = `${group}: ${name}`;
    if ((words(only).length > 0 && !is(group, name, only)) || is(group, name, skip)) {
      skipped++;
      console.log(`SKIP ${said}`);
      continue;
    }
    try {
      await check();
      passed++;
      console.log(`PASS ${said}`);
    } catch (error) {
      failed++;
      console.log(`FAIL ${said}`);
      console.error(error);
    }
  }
  if (only && passed + failed === 0) {
    failed++;
    console.log("no check has such a name");
  }
  console.log(`${passed} passed, ${failed} failed, ${skipped} skipped; ${with_what}`);
  return failed;
}
