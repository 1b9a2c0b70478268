// Everything this page asks of its server. The key, where one is needed, lives in this tab only.

import { byId } from "./dom.js";

const KEPT = "clinprompt-key";
let key = sessionStorage.getItem(KEPT) || "";
const cards = new Map();

export function useKey(value) {
  key = value.trim();
  if (key) sessionStorage.setItem(KEPT, key);
  else sessionStorage.removeItem(KEPT);
  cards.clear();
}

async function ask(path, { method = "GET", json, raw = false } = {}) {
  const headers = {};
  if (key) headers.Authorization = `Bearer ${key}`;
  if (json !== undefined) headers["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, { method, headers, body: json === undefined ? undefined : JSON.stringify(json) });
  } catch {
    throw new Error("The server does not answer. Is it still running?");
  }
  if (!answer.ok) throw await problem(answer);
  if (answer.status === 204) return null;
  return raw ? answer.blob() : answer.json();
}

async function problem(answer) {
  let said = null;
  try {
    said = (await answer.json()).error;
  } catch {
    // A proxy in between may answer in its own way; the status is all there is to say then.
  }
  if (answer.status === 401) byId("key-form").hidden = false;
  const wait = answer.headers.get("Retry-After");
  const place = said?.place ? `${said.place}: ` : "";
  const text = said ? place + said.message : `The server answered ${answer.status}.`;
  const error = new Error(wait ? `${text} Try again in ${wait} s.` : text);
  error.status = answer.status;
  return error;
}

const name = (text) => encodeURIComponent(text);

export const tasks = () => ask("/v1/tasks");

/** A task with its card; asked for once, as long as its prompt is the same. */
export async function card(task, digest = "") {
  const known = cards.get(task);
  if (known && (!digest || known.digest === digest)) return known;
  const found = await ask(`/v1/tasks/${name(task)}`);
  cards.set(task, found);
  return found;
}

export const predict = (names, document, constrained) =>
  ask(`/v1/tasks/${names.map(name).join(",")}/predict`, { method: "POST", json: { documents: [document], constrained } });

export const prompt = (task) => ask(`/v1/tasks/${name(task)}/prompt`);

export const taskFile = (task) => ask(`/v1/tasks/${name(task)}/file`, { raw: true });

export const written = (format, document, answers) =>
  ask(`/v1/export/${format}`, { method: "POST", json: { documents: [document], answers }, raw: true });

export const teaching = () => ask("/v1/teach");

export const teach = (lesson) => ask("/v1/teach", { method: "POST", json: lesson });

export const lesson = (id, since) => ask(`/v1/teach/${id}?since=${since}`);

export const cancel = (id) => ask(`/v1/teach/${id}`, { method: "DELETE" });
