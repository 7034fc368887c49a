// Drives the web page of a running server in a real browser.
//
//     node page.mjs http://127.0.0.1:8000 [--key KEY] [--only A,B] [--skip A,B]
//                   [--chromium PATH] [--screenshots FOLDER]
//
// Every line of the output is one check; the exit code is 1 when one fails. The model's words do not
// matter, so any model will do. A check that needs certain words answers in the server's place.

import assert from "node:assert/strict";
import { chromium } from "playwright-core";
import { parse, run } from "./checks.mjs";

const { base, key, flags } = parse(process.argv.slice(2));
const PATIENCE_MS = 30_000;

// Events as a server sends them, of these deltas.
function sse(deltas, finish = "stop") {
  const chunk = (delta, reason) =>
    `data: ${JSON.stringify({ id: "x", object: "chat.completion.chunk", created: 1, model: "m", choices: [{ index: 0, delta, finish_reason: reason }] })}\n\n`;
  return [...deltas.map((delta) => chunk(delta, null)), chunk({}, finish), "data: [DONE]\n\n"].join("");
}

const CHAT = "**/v1/chat/completions";
const says = (...deltas) => (route) =>
  route.fulfill({ status: 200, contentType: "text/event-stream", body: sse(deltas) });

async function send(page, text) {
  await page.getByLabel("Message", { exact: true }).fill(text);
  await page.keyboard.press("Enter");
}

const lastTurn = (page) => page.locator(".turn.assistant").last();

async function ended(page) {
  await page.locator('.turn.assistant[aria-busy="false"]').last().waitFor();
  await page.locator("#send").waitFor();
}

async function shown(page, id, pattern) {
  await page.waitForFunction(([id, source]) => new RegExp(source).test(document.getElementById(id).textContent), [id, pattern.source]);
}

async function openSettings(page) {
  if (!(await page.locator("#settings").getAttribute("open").then((open) => open !== null))) {
    await page.locator("#settings summary").click();
  }
}

const checks = {
  async files_are_cached_by_tag_and_keep_to_themselves() {
    for (const [path, type] of [["", "text/html"], ["page/style.css", "text/css"], ["page/app.js", "text/javascript"], ["favicon.ico", "image/svg+xml"]]) {
      const url = `${base}/${path}`;
      const whole = await fetch(url);
      const text = await whole.text();
      assert.equal(whole.status, 200, path);
      assert.ok(whole.headers.get("content-type").startsWith(type), path);
      assert.match(whole.headers.get("content-security-policy"), /default-src 'none'/);
      assert.equal(whole.headers.get("cache-control"), "no-cache");
      const head = await fetch(url, { method: "HEAD" });
      assert.equal(head.headers.get("content-length"), String(Buffer.byteLength(text)), path);
      const again = await fetch(url, { headers: { "if-none-match": whole.headers.get("etag") } });
      assert.equal(again.status, 304, path);
      assert.equal((await fetch(url, { method: "POST" })).status, 405, path);
    }
  },

  async the_page_shows_the_model_its_state_and_figures(page) {
    await shown(page, "status", /^ready$/);
    await shown(page, "model", /./);
    for (const id of ["running", "waiting", "kv", "tokens-per-second", "graphs-compiled", "graphs-from-cache", "graphs-late"]) {
      await shown(page, id, /^[\d.,]+%?$/);
    }
    await shown(page, "boot-total", /\d+.* m?s$/);
    assert.ok((await page.locator("#boot tbody tr").count()) > 0, "boot phases are missing");
    assert.match(await page.title(), /Cairn/);
  },

  async a_chat_is_streamed_and_counted(page) {
    let asked = null;
    await page.route(CHAT, (route) => {
      asked = { ...route.request().postDataJSON(), ignore_eos: true };
      return route.continue({ postData: JSON.stringify(asked) });
    });
    await openSettings(page);
    await page.getByLabel("System prompt").fill("You are brief.");
    await page.getByLabel("Temperature").fill("0.5");
    await page.getByLabel("Most tokens").fill("600");
    const lengths = page.evaluate(() => {
      // How long the answer is after each change: one that is streamed has several lengths.
      const seen = new Set();
      new MutationObserver(() => seen.add(document.querySelector(".turn.assistant .text")?.textContent.length ?? 0)).observe(
        document.getElementById("log"),
        { childList: true, subtree: true, characterData: true },
      );
      window.lengthsSeen = seen;
    });
    await lengths;
    await send(page, "Say hello.");
    await ended(page);
    assert.ok((await page.evaluate(() => window.lengthsSeen.size)) > 2, "the answer came at once");
    assert.match(await lastTurn(page).locator(".foot").textContent(), /600 tokens · [\d.]+ tokens\/s · first after \d+ ms/);
    assert.deepEqual(asked.messages, [
      { role: "system", content: "You are brief." },
      { role: "user", content: "Say hello." },
    ]);
    assert.equal(asked.temperature, 0.5);
    assert.equal(asked.max_completion_tokens, 600);
    // The next question brings the answer along.
    await send(page, "And again.");
    await ended(page);
    assert.deepEqual(asked.messages.map(({ role }) => role), ["system", "user", "assistant", "user"]);
    // And the figures tell of it.
    await shown(page, "ttft-p50", /\d m?s$/);
    await shown(page, "itl-p99", /\d m?s$/);
    await shown(page, "speed-peak", /[1-9]/);
    await page.getByRole("button", { name: "New chat" }).click();
    assert.equal(await page.locator(".turn").count(), 0);
  },

  async stop_ends_an_answer_here_and_in_the_engine(page) {
    await page.route(CHAT, (route) => {
      const fields = { ...route.request().postDataJSON(), ignore_eos: true };
      return route.continue({ postData: JSON.stringify(fields) });
    });
    await send(page, "Talk for a long time.");
    await page.locator(".turn.assistant .text:not(:empty)").waitFor();
    await page.getByRole("button", { name: "Stop" }).click();
    await ended(page);
    assert.match(await lastTurn(page).locator(".foot").textContent(), /^stopped/);
    await shown(page, "running", /^0$/);
    // What was said stays, and Escape does the same.
    await send(page, "Once more.");
    await page.locator(".turn.assistant").nth(1).locator(".text:not(:empty)").waitFor();
    await page.keyboard.press("Escape");
    await ended(page);
    assert.match(await lastTurn(page).locator(".foot").textContent(), /^stopped/);
  },

  async what_a_model_says_is_never_a_tag_or_a_link(page) {
    const hostile =
      "<img src=x onerror=\"window.hacked = 1\"><script>window.hacked = 1</script>\n\n" +
      "[click](javascript:window.hacked=1) ![x](/favicon.ico)\n\n# <b onmouseover=alert(1)>bold</b>\n\n- <svg onload=alert(1)>\n\n```html\"><img src=x>\n</code></pre><iframe src=/></iframe>\n```";
    await page.route(CHAT, says({ role: "assistant", content: "" }, { reasoning_content: hostile }, { content: hostile }));
    await send(page, hostile);
    await ended(page);
    const turn = lastTurn(page);
    assert.equal(await page.locator("#log :is(img, script, svg, iframe, a, b)").count(), 0);
    assert.equal(await page.evaluate(() => window.hacked), undefined);
    assert.ok((await turn.locator(".text").textContent()).includes('<img src=x onerror="window.hacked = 1">'));
    assert.ok((await page.locator(".turn.user .text").textContent()).includes("<script>"));
    const thinking = turn.locator("details.thinking");
    assert.equal(await thinking.getAttribute("open"), null, "thoughts are folded");
    await thinking.locator("summary").click();
    assert.equal(await thinking.locator("div").textContent(), hostile);
    // The policy itself: no script can turn text into HTML.
    const refused = await page.evaluate(() => {
      const made = document.createElement("div");
      try {
        made["inner" + "HTML"] = "<i></i>";
      } catch {
        return true;
      }
      return made.children.length === 0;
    });
    assert.ok(refused, "the policy allows HTML from text");
  },

  async markdown_is_shown_as_meant(page) {
    const text = "## Title\n\nSome **bold**, *lean* and `code *x*`; 2 * 3 * 4.\n\n1. one\n   - inner\n2. two\n\n```rust\nfn main() {}\n```\n> said\n\n---\nend";
    // Cut anywhere: the end is the same.
    await page.route(CHAT, says(...text.match(/[^]{1,3}/g).map((content) => ({ content }))));
    await send(page, "x");
    await ended(page);
    const drawn = await lastTurn(page).locator(".text").evaluate((element) => {
      const outline = (node) =>
        node.nodeType === Node.TEXT_NODE ? node.data : `<${node.localName}>${[...node.childNodes].map(outline).join("")}</>`;
      return [...element.childNodes].map(outline);
    });
    assert.deepEqual(drawn, [
      "<h3>Title</>",
      "<p>Some <strong>bold</>, <em>lean</> and <code>code *x*</>; 2 * 3 * 4.</>",
      "<ol><li>one<ul><li>inner</></></><li>two</></>",
      "<pre><code>fn main() {}</></>",
      "<blockquote>said</>",
      "<hr></>",
      "<p>end</>",
    ]);
  },

  async no_text_takes_long_to_draw(page) {
    const took = await page.evaluate(async () => {
      const { show } = await import("./page/markdown.js");
      const start = performance.now();
      for (const part of ["**a ", "`", "`` ` ", "*a", "# ", "- ", " - ", "> ", "_ ", "~~~\n", "1. \n", "#    "]) {
        show(document.createElement("div"), part.repeat(20_000));
      }
      return performance.now() - start;
    });
    assert.ok(took < 15_000, `${took} ms`);
  },

  async refusals_are_told_and_the_question_is_kept(page) {
    const told = [
      [429, { "retry-after": "7" }, { error: { message: "too much", type: "rate_limit_error", param: null, code: null } }, /too much.*7 s/],
      [401, {}, { error: { message: "no", type: "x", param: null, code: null } }, /API key/],
      [502, {}, "<html>proxy</html>", /status 502/],
    ];
    for (const [status, headers, body, pattern] of told) {
      await page.route(CHAT, (route) =>
        route.fulfill({ status, headers, contentType: "application/json", body: typeof body === "string" ? body : JSON.stringify(body) }),
      );
      await send(page, "a question");
      await ended(page);
      assert.match(await lastTurn(page).locator(".foot.error").textContent(), pattern);
      assert.equal(await page.locator("#prompt").inputValue(), "a question");
      await page.unroute(CHAT);
    }
    await page.route(CHAT, (route) =>
      route.fulfill({ contentType: "text/event-stream", body: 'data: {"error": {"message": "the device is gone"}}\n\n' }),
    );
    await send(page, "a question");
    await ended(page);
    assert.match(await lastTurn(page).locator(".foot.error").textContent(), /the device is gone/);
    await page.unroute(CHAT);
    await page.route(CHAT, (route) => route.fulfill({ contentType: "text/event-stream", body: ": hello\n\n" }));
    await send(page, "a question");
    await ended(page);
    assert.match(await lastTurn(page).locator(".foot.error").textContent(), /ended early/);
  },

  async a_key_goes_along_and_stays_in_the_tab(page) {
    const keys = new Set();
    await page.route(CHAT, (route) => {
      keys.add(route.request().headers().authorization);
      return says({ content: "hi" })(route);
    });
    await page.route("**/metrics", (route) => {
      keys.add(route.request().headers().authorization);
      return route.fulfill({ status: 200, body: "" });
    });
    await openSettings(page);
    await page.getByLabel("API key").fill("sk-for-the-test");
    await page.getByLabel("API key").press("Tab");
    keys.clear();
    await send(page, "x");
    await ended(page);
    await page.reload();
    await page.waitForResponse("**/metrics");
    assert.deepEqual([...keys], ["Bearer sk-for-the-test"]);
    assert.equal(await page.getByLabel("API key").inputValue(), "sk-for-the-test");
    assert.equal(await page.evaluate(() => localStorage.length + document.cookie.length), 0);
  },

  async events_are_shown_newest_first_or_why_not(page) {
    const events = [
      { seq: 2, time: "2030-01-02T03:04:06.123Z", level: "abnormal", kind: "device_lost", message: "the device is lost", remedy: "replace it" },
      { seq: 1, time: "2030-01-02T03:04:05.000Z", level: "normal", kind: "ready", message: "ready <b>now</b>", remedy: null },
    ];
    const reply = (status, body) => (route) => route.fulfill({ status, contentType: "application/json", body: JSON.stringify(body) });
    for (const [status, body, pattern] of [
      [404, {}, /shows no events/],
      [403, {}, /operator/],
      [401, {}, /API key/],
      [200, { object: "list", data: [], next: null, has_more: false }, /none yet/],
    ]) {
      await page.unroute("**/admin/events*");
      await page.route("**/admin/events*", reply(status, body));
      await page.reload();
      await shown(page, "events-note", pattern);
    }
    await page.unroute("**/admin/events*");
    await page.route("**/admin/events*", reply(200, { object: "list", data: events, next: 1, has_more: false }));
    await page.reload();
    const items = page.locator("#event-list li");
    await items.nth(1).waitFor();
    assert.match(await items.nth(0).textContent(), /device lost, abnormal.*the device is lost.*replace it/s);
    assert.match(await items.nth(1).textContent(), /ready.*ready <b>now<\/b>/s);
  },

  async metrics_are_read_as_prometheus_reads_them(page) {
    const found = await page.evaluate(async () => {
      const { parse, quantile, total, growth, hasRestarted } = await import("./page/metrics.js");
      const text = (counts, tokens) =>
        [
          "# HELP t seconds", "# TYPE t histogram",
          ...["0.1", "0.5", "+Inf"].map((le, i) => `t_bucket{model_name="a \\"b\\", c",le="${le}"} ${counts[i]}`),
          `vllm:generation_tokens_total{model_name="m"} ${tokens}`, "g 1", 'g{x="2"} 2.5',
        ].join("\n");
      const [before, after] = [parse(text([4, 4, 4], 10)), parse(text([4, 14, 14], 30))];
      return {
        label: after.get("t_bucket")[0].labels.model_name,
        total: total(after, "g"),
        absent: total(after, "nothing"),
        median: quantile(after, before, "t", 0.5),
        all: quantile(after, null, "t", 0.99),
        none: quantile(after, after, "t", 0.5),
        beyond: quantile(parse(text([0, 0, 3], 0)), null, "t", 0.5),
        growth: growth(after, before, "vllm:generation_tokens_total"),
        restarted: [hasRestarted(after, before), hasRestarted(before, after)],
      };
    });
    const near = (value, wanted) => assert.ok(Math.abs(value - wanted) < 1e-9, `${value} is not ${wanted}`);
    near(found.median, 0.3);
    // Of 14, the first four lie below 0.1 and the others between 0.1 and 0.5.
    near(found.all, 0.1 + (0.4 * (0.99 * 14 - 4)) / 10);
    delete found.median;
    delete found.all;
    assert.deepEqual(found, {
      label: 'a "b", c', total: 3.5, absent: null, none: null, beyond: 0.5, growth: 20, restarted: [false, true],
    });
  },

  async every_field_has_a_name_and_a_phone_has_room(page) {
    const unnamed = await page.evaluate(() =>
      [...document.querySelectorAll("input, textarea, select, button, meter, [tabindex]")]
        .filter((field) => !(field.labels?.length > 0 || field.ariaLabel || field.getAttribute("aria-labelledby") || (field.localName === "button" && field.textContent.trim())))
        .map((field) => field.outerHTML),
    );
    assert.deepEqual(unnamed, []);
    await page.setViewportSize({ width: 360, height: 640 });
    for (const [view, visible] of [["Live", "#live"], ["Events", "#events"], ["Chat", "#chat"]]) {
      await page.getByRole("button", { name: view, exact: true }).click();
      for (const part of ["#live", "#events", "#chat"]) {
        assert.equal(await page.locator(part).isVisible(), part === visible, `${part} in ${view}`);
      }
      const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      assert.ok(overflow <= 0, `${view} is ${overflow} px too wide`);
    }
    await page.keyboard.press("Tab");
    const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
    assert.notEqual(outline, "none", "focus is not visible");
  },
};

const browser = await chromium.launch({
  executablePath: flags.chromium ?? "/usr/bin/chromium",
  args: [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
  ],
});

// A check with a fresh page of its own, which may say nothing wrong and ask nobody else.
async function withPage(name, check) {
  const context = await browser.newContext({ colorScheme: name.length % 2 ? "dark" : "light", viewport: { width: 1280, height: 800 } });
  context.setDefaultTimeout(PATIENCE_MS);
  const page = await context.newPage();
  const wrong = [];
  page.on("pageerror", (error) => wrong.push(String(error)));
  page.on("console", (message) => {
    // The browser's own line about a status that is no success is part of some checks, and of
    // servers without events.
    const isStatus = message.text().startsWith("Failed to load resource: the server responded with");
    const isPolicy = name.startsWith("what_a_model_says") && message.text().includes("TrustedHTML");
    if (["error", "warning"].includes(message.type()) && !isStatus && !isPolicy) wrong.push(message.text());
  });
  page.on("request", (request) => {
    if (!request.url().startsWith(`${base}/`)) wrong.push(`asked ${request.url()}`);
  });
  try {
    if (key) await page.addInitScript((key) => sessionStorage.getItem("cairn.key") ?? sessionStorage.setItem("cairn.key", key), key);
    await page.goto(`${base}/`);
    await check(page);
    assert.deepEqual(wrong, []);
  } finally {
    if (flags.screenshots) await page.screenshot({ path: `${flags.screenshots}/${name}.png` });
    await context.close();
  }
}

const failed = await run(
  Object.entries(checks).map(([name, check]) => ["page", name, () => withPage(name, check)]),
  flags,
  `Chromium ${browser.version()}`,
);
await browser.close();
process.exit(failed ? 1 : 0);
