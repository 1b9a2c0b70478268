// Tabs, the key, and what all parts share: the list of tasks.

import { announce, byId } from "./dom.js";
import * as server from "./server.js";
import { readPart } from "./read.js";
import { cardsPart } from "./cards.js";
import { teachPart } from "./teach.js";

const TABS = ["read", "cards", "teach"];
let served = [];

const page = {
  tasks: () => served,
  fail(error) {
    const notice = byId("notice");
    notice.textContent = error.message;
    notice.hidden = false;
  },
  clear() {
    byId("notice").hidden = true;
  },
  announce,
  async refresh() {
    try {
      const found = await server.tasks();
      served = found.tasks;
      byId("model").textContent = `${found.model} · ${served.length === 1 ? "1 task" : `${served.length} tasks`}`;
      parts.forEach((part) => part.refresh(found));
    } catch (error) {
      page.fail(error);
    }
  },
  open(tab, ...rest) {
    show(tab);
    parts[TABS.indexOf(tab)].open?.(...rest);
  },
};

const parts = [readPart(byId("read"), page), cardsPart(byId("cards"), page), teachPart(byId("teach"), page)];

function show(name) {
  page.clear();
  for (const tab of TABS) {
    const chosen = tab === name;
    byId(tab).hidden = !chosen;
    byId(`tab-${tab}`).setAttribute("aria-selected", String(chosen));
    byId(`tab-${tab}`).tabIndex = chosen ? 0 : -1;
  }
  history.replaceState(null, "", `#${name}`);
}

for (const tab of TABS) byId(`tab-${tab}`).addEventListener("click", () => page.open(tab));
document.querySelector("[role=tablist]").addEventListener("keydown", (event) => {
  const here = TABS.findIndex((tab) => byId(`tab-${tab}`) === document.activeElement);
  const to = { ArrowRight: here + 1, ArrowLeft: here + TABS.length - 1, Home: 0, End: TABS.length - 1 }[event.key];
  if (to === undefined || here < 0) return;
  event.preventDefault();
  const tab = TABS[to % TABS.length];
  page.open(tab);
  byId(`tab-${tab}`).focus();
});
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  server.useKey(byId("key").value);
  byId("key").value = "";
  page.clear();
  page.refresh();
});
// A file that misses its field must not replace the page by its text.
for (const event of ["dragover", "drop"]) addEventListener(event, (found) => found.preventDefault());

const asked = location.hash.slice(1);
page.open(TABS.includes(asked) ? asked : "read");
page.refresh();
setInterval(() => document.hidden || page.refresh(), 15_000);
