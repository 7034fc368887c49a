// Markdown as models write it, as elements of the page.
//
// Text becomes a text node and nothing else: there is no way from a model's words to a tag, an
// attribute or an address. Links stay text for the same reason.
//
// A text is cut into blocks first, so that a stream redraws only the blocks that changed.

// The blocks of a text: {kind, text} and what the kind needs.
export function blocks(text) {
  const found = [];
  const lines = text.replaceAll("\r\n", "\n").split("\n");
  const open = (kind) => (found.at(-1)?.kind === kind && !found.at(-1).isClosed ? found.at(-1) : null);
  const close = () => {
    if (found.length > 0) found.at(-1).isClosed = true;
  };
  for (let i = 0; i < lines.length; i++) {
    const line = lines[i];
    const fence = /^\s*(`{3,}(?=[^`]*$)|~{3,})/.exec(line);
    if (fence) {
      const [, mark] = fence;
      const body = [];
      const isEnd = (other) => other.trim().startsWith(mark) && /^[`~]+$/.test(other.trim());
      while (++i < lines.length && !isEnd(lines[i])) body.push(lines[i]);
      found.push({ kind: "code", text: body.join("\n"), isClosed: true });
      continue;
    }
    const heading = /^#{1,6}\s+(.*)$/.exec(line);
    const item = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/.exec(line);
    if (line.trim() === "") {
      close();
    } else if (heading) {
      found.push({ kind: "heading", text: heading[1].trimEnd().replace(/\s#+$/, ""), isClosed: true });
    } else if (/^\s{0,3}([-*_])(\s*\1){2,}\s*$/.test(line)) {
      found.push({ kind: "rule", text: "", isClosed: true });
    } else if (item) {
      const kind = /\d/.test(item[2]) ? "ordered" : "bullets";
      const depth = Math.min(item[1].length >> 1, 4);
      // A blank line between items does not end their list.
      const last = found.at(-1);
      const goesOn = last?.kind === kind || (last?.items && depth > 0);
      const list = goesOn ? last : { kind, items: [], start: parseInt(item[2], 10) || 1 };
      if (!goesOn) found.push(list);
      list.isClosed = false;
      list.items.push({ kind, depth, text: item[3] });
    } else if (/^\s{0,3}>/.test(line)) {
      const quote = open("quote");
      const said = line.replace(/^\s{0,3}>\s?/, "");
      if (quote) quote.text += `\n${said}`;
      else found.push({ kind: "quote", text: said });
    } else {
      const list = open("ordered") ?? open("bullets");
      const paragraph = open("paragraph");
      if (list) list.items.at(-1).text += `\n${line.trim()}`;
      else if (paragraph) paragraph.text += `\n${line}`;
      else found.push({ kind: "paragraph", text: line });
    }
  }
  return found;
}

// The pieces of a line: [kind, text] with kind "", "code", "strong" or "em".
export function pieces(text) {
  // Bounded, so that no text takes long: a mark that is not closed soon is none.
  const mark =
    /(?<!`)(`+)(?!`)(.{1,2000}?)(?<!`)\1(?!`)|\*\*(?=\S)(.{1,500}?)(?<=\S)\*\*|(?<![\w*])\*(?=[^\s*])([^*]{1,500})(?<=\S)\*(?![\w*])/gs;
  const found = [];
  let end = 0;
  for (const match of text.matchAll(mark)) {
    if (match.index > end) found.push(["", text.slice(end, match.index)]);
    if (match[2] !== undefined) found.push(["code", match[2]]);
    else if (match[3] !== undefined) found.push(["strong", match[3]]);
    else found.push(["em", match[4]]);
    end = match.index + match[0].length;
  }
  if (end < text.length) found.push(["", text.slice(end)]);
  return found;
}

// Shows a text in an element, and redraws only what is not as it was the last time.
export function show(element, text) {
  const wanted = blocks(text);
  const known = (element.shownBlocks ??= []);
  wanted.forEach((block, i) => {
    const source = JSON.stringify(block);
    if (known[i] === source) return;
    known[i] = source;
    const drawn = draw(block);
    if (element.children[i]) element.children[i].replaceWith(drawn);
    else element.append(drawn);
  });
  while (element.children.length > wanted.length) element.lastElementChild.remove();
  known.length = wanted.length;
}

function draw(block) {
  switch (block.kind) {
    case "code": {
      const pre = document.createElement("pre");
      pre.tabIndex = 0; // It may scroll sideways.
      pre.append(plain("code", block.text));
      return pre;
    }
    case "heading":
      return inline("h3", block.text);
    case "rule":
      return document.createElement("hr");
    case "quote":
      return inline("blockquote", block.text);
    case "bullets":
    case "ordered":
      return list(block);
    default:
      return inline("p", block.text);
  }
}

// Items that are indented further go into a list within the item before them.
function list({ kind, items, start }) {
  const make = (kind) => document.createElement(kind === "ordered" ? "ol" : "ul");
  const root = make(kind);
  if (kind === "ordered") root.start = start;
  const levels = [{ depth: items[0].depth, element: root }];
  for (const { kind, depth, text } of items) {
    while (levels.length > 1 && depth < levels.at(-1).depth) levels.pop();
    if (depth > levels.at(-1).depth) {
      const inner = make(kind);
      levels.at(-1).element.lastElementChild.append(inner);
      levels.push({ depth, element: inner });
    }
    levels.at(-1).element.append(inline("li", text));
  }
  return root;
}

function plain(tag, text) {
  const element = document.createElement(tag);
  element.textContent = text;
  return element;
}

function inline(tag, text) {
  const element = document.createElement(tag);
  for (const [kind, piece] of pieces(text)) element.append(kind === "" ? piece : plain(kind, piece));
  return element;
}
