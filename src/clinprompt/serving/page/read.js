// Paste a note, choose tasks, read what they say.

import { el, field, fileButton, takesFiles, textsOf } from "./dom.js";
import { answersView } from "./answers.js";
import { count } from "./points.js";
import * as server from "./server.js";

const SAMPLE = `42-year-old woman seen in clinic for follow-up of pancreatic cancer. She reports rectal bleeding for six days and mild mouth sores, but denies productive cough. Past medical history includes rheumatoid arthritis and rotator cuff tear; she underwent paracentesis in 2006. Current medications are polyethylene glycol 100 mg twice daily for constipation and simvastatin 10 mg daily. Doxorubicin was stopped three weeks ago because it caused hearing loss. She works as a retired miner and lives with her mother.`;
const TAUGHT = "taught on this server"; // the description of such a task is the question it was taught with
const KINDS = { ner: "entities", relation: "relations", qa: "answer", nli: "label", summarization: "summary" };

export function readPart(panel, page) {
  const note = el("textarea", { id: "note", rows: 12, spellcheck: "false", "aria-describedby": "note-size" });
  const size = el("small", { id: "note-size", class: "quiet" });
  const choice = el("div", { class: "choices" });
  const extras = el("div");
  const constrained = el("input", { type: "checkbox", id: "constrained" });
  const button = el("button", { type: "submit", class: "main" }, "Read the note");
  const results = el("div", { id: "results", tabindex: "-1" });
  const fields = {
    hypothesis: el("input", { type: "text", id: "hypothesis" }),
    question: el("input", { type: "text", id: "question" }),
    options: el("textarea", { rows: 3, id: "options" }),
    given: el("select", { id: "given" }),
  };
  const chosen = new Set();
  let asking = 0;
  let settled = Promise.resolve();
  let settling = 0;

  const take = async (files) => {
    try {
      const [text] = await textsOf([...files].slice(0, 1));
      page.clear();
      setNote(text);
    } catch (error) {
      page.fail(error);
    }
  };
  const setNote = (text) => {
    note.value = text;
    sized();
  };
  const sized = () => {
    size.textContent = `${count(note.value).toLocaleString("en")} characters. Paste a note, or drop a text file here. Ctrl+Enter reads it.`;
  };
  note.addEventListener("input", sized);
  note.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) read(event);
  });
  takesFiles(note, take);

  panel.append(
    el("form", { class: "columns ask", on: { submit: read } },
      el("div", {},
        field("Note", note), size,
        el("p", { class: "row" }, fileButton("Open a file…", take), el("button", { type: "button", class: "plain", on: { click: () => setNote(SAMPLE) } }, "Take a made-up note"))),
      el("div", {},
        el("fieldset", {}, el("legend", {}, "Tasks"), choice), extras,
        el("p", { class: "check" }, constrained, el("label", { for: "constrained" }, "Entities are copied from the note, never made up")),
        el("p", {}, button))),
    results);
  sized();

  function refresh() {
    const tasks = page.tasks();
    const names = tasks.map((task) => task.name);
    for (const name of chosen) if (!names.includes(name)) chosen.delete(name);
    const same = [...choice.querySelectorAll("input")].map((box) => box.value).join("\n") === names.join("\n");
    if (same && names.length) return;
    const focused = document.activeElement?.closest?.(".choices") ? document.activeElement.value : null;
    choice.replaceChildren(...tasks.map(option));
    if (!tasks.length) choice.append(el("p", { class: "quiet" }, "No task is served yet. Put task files into the server's folder, or teach one."));
    if (focused) [...choice.querySelectorAll("input")].find((box) => box.value === focused)?.focus();
    needs();
  }

  function option(task) {
    const box = el("input", { type: "checkbox", value: task.name, id: `task-${task.name}`, checked: chosen.has(task.name) });
    box.addEventListener("change", () => {
      if (box.checked) chosen.add(task.name);
      else chosen.delete(task.name);
      needs();
    });
    const labels = Object.keys(task.labels).join(", ");
    return el("p", { class: "check" }, box, el("label", { for: box.id }, el("b", {}, task.name), " ", el("span", { class: "kind" }, KINDS[task.type]), labels ? el("small", { class: "quiet" }, ` ${labels}`) : null));
  }

  const picked = () => page.tasks().filter((task) => chosen.has(task.name));

  /** Show the fields that the chosen tasks need; `settled` ends when the last choice has its fields. */
  function needs() {
    const turn = ++settling;
    choice.setAttribute("aria-busy", "true");
    settled = neededFields().then((found) => {
      if (turn !== settling) return;
      extras.replaceChildren(...found);
      choice.removeAttribute("aria-busy");
    });
  }

  async function neededFields() {
    const found = [];
    try {
      const about = await Promise.all(picked().map((task) => server.card(task.name, task.digest)));
      const own = about.map((one) => one.card.tasks[0]);
      if (own.some((task) => task.type === "nli")) found.push(field("Statement: does it follow from the note?", fields.hypothesis));
      const asked = own.filter((task) => task.type === "qa");
      if (asked.length) {
        if (!fields.question.value) fields.question.value = asked.find((task) => (task.answers === "labels" || task.licence === TAUGHT) && task.description)?.description || "";
        found.push(field("Question", fields.question));
      }
      if (asked.some((task) => !task.answers ? !Object.keys(task.labels || {}).length : task.answers === "options")) found.push(field("Options, one a line", fields.options));
      if (own.some((task) => task.type === "relation" && task.entities !== "predicted")) {
        const finders = page.tasks().filter((task) => task.type === "ner");
        fields.given.replaceChildren(...finders.map((task) => el("option", { value: task.name }, task.name)));
        found.push(field("Relations hold between the entities found by", fields.given, finders.length ? null : "No task served here finds entities; relations need one."));
      }
    } catch (error) {
      page.fail(error);
    }
    return found;
  }

  async function read(event) {
    event.preventDefault();
    await settled;
    const tasks = picked();
    if (!note.value.trim()) return page.fail(new Error("There is no note yet: paste one, or drop a text file."));
    if (!tasks.length) return page.fail(new Error("No task is chosen: tick at least one."));
    page.clear();
    const turn = ++asking;
    button.disabled = true;
    results.setAttribute("aria-busy", "true");
    page.announce("Reading the note.");
    try {
      const document_ = { text: note.value };
      for (const name of ["hypothesis", "question"]) if (fields[name].isConnected && fields[name].value.trim()) document_[name] = fields[name].value.trim();
      if (fields.options.isConnected) document_.options = fields.options.value.split("\n").map((line) => line.trim()).filter(Boolean);
      const answers = await asked(tasks, document_);
      if (turn !== asking) return;
      results.replaceChildren(answersView(document_, tasks, answers, page));
      page.announce(`Answered by ${tasks.map((task) => task.name).join(", ")}.`);
      results.focus({ preventScroll: true });
      results.scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth", block: "start" });
    } catch (error) {
      page.fail(error);
    } finally {
      button.disabled = false;
      results.removeAttribute("aria-busy");
    }
  }

  /** Tasks that relate given entities are asked after the task that finds them. */
  async function asked(tasks, document_) {
    const given = [];
    for (const task of tasks) {
      const own = task.type === "relation" && (await server.card(task.name, task.digest)).card.tasks[0];
      if (own && own.entities !== "predicted") given.push(task);
    }
    const first = tasks.filter((task) => !given.includes(task));
    const answers = first.length ? (await server.predict(first.map((task) => task.name), document_, constrained.checked)).answers : [];
    if (given.length) {
      const finder = fields.given.value;
      if (!finder) throw new Error("Relations need entities, and no task served here finds any.");
      const found = answers.find((one) => one.task === finder) || (await server.predict([finder], document_, constrained.checked)).answers[0];
      document_.entities = found.entities.map(({ id, type, spans }) => ({ id, type, spans }));
      if (!document_.entities.length) throw new Error(`${finder} finds no entity in this note, so there is nothing to relate.`);
      answers.push(...(await server.predict(given.map((task) => task.name), document_, constrained.checked)).answers);
    }
    return tasks.map((task) => answers.find((one) => one.task === task.name));
  }

  return {
    refresh,
    open(task) {
      if (!task) return;
      chosen.clear();
      chosen.add(task);
      for (const box of choice.querySelectorAll("input")) box.checked = chosen.has(box.value);
      fields.question.value = "";
      needs();
      note.focus();
    },
  };
}
