// Puts the page's parts together: chat, live figures, events, and what they share.

import { apiKey, setApiKey } from "./api.js";
import { startChat } from "./chat.js";
import { startEvents } from "./events.js";
import { startLive } from "./live.js";

startChat();
const readers = [startLive(), startEvents()];

const key = document.getElementById("key");
key.value = apiKey();
key.addEventListener("change", () => {
  setApiKey(key.value);
  readers.forEach((read) => read());
});

// On a phone one view is shown at a time.
const tabs = document.querySelectorAll("nav button");
for (const tab of tabs) {
  tab.addEventListener("click", () => {
    document.body.dataset.view = tab.dataset.show;
    tabs.forEach((other) => (other.ariaPressed = String(other === tab)));
  });
}
