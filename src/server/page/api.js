// Asking the server: where it is, with which key, and what its refusals mean.

const KEY = "cairn.key";

// A browser that keeps nothing is no reason to fail.
const storage = (use) => {
  try {
    return use(sessionStorage);
  } catch {
    return null;
  }
};

let key = storage((kept) => kept.getItem(KEY)) ?? "";

export const apiKey = () => key;

export function setApiKey(text) {
  key = text.trim();
  storage((kept) => (key === "" ? kept.removeItem(KEY) : kept.setItem(KEY, key)));
}

// Fetches a path of this server; with a body, posts it as JSON.
export function ask(path, { body, signal } = {}) {
  const headers = {};
  if (key !== "") headers.authorization = `Bearer ${key}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  return fetch(new URL(path, document.baseURI), {
    method: body === undefined ? "GET" : "POST",
    headers,
    body: body === undefined ? undefined : JSON.stringify(body),
    cache: "no-store",
    signal,
  });
}

// Whether asking again in the same way is of no use.
export const isFinal = (response) => [401, 403, 404].includes(response.status);

// Why an answer is a refusal, in a sentence for people.
export async function refusal(response) {
  if (response.status === 401) {
    return key === "" ? "This server wants an API key; it goes into Settings." : "This server does not know the API key in Settings.";
  }
  if (response.status === 403) return "The API key in Settings may not do this.";
  const told = await response.json().catch(() => null);
  const wait = response.headers.get("retry-after");
  const message = told?.error?.message ?? `The server answered with status ${response.status}.`;
  return wait === null ? message : `${message} (Worth another try in ${wait} s.)`;
}
