// Relations between two marks of a note: from, relation, to. The arcs over the text show the same.

import { el, unique } from "./dom.js";
import { said } from "./highlight.js";

/** Relations of one note. `names()`: the relations that can be chosen now; `changed()`: called after every change. */
export class Relater {
  constructor(text, names, changed, announce) {
    this.text = text;
    this.names = names;
    this.changed = changed;
    this.announce = announce;
    this.pairs = []; // {type, head, tail}, head and tail are marks
    this.marks = [];
    this.from = this.choice("From");
    this.type = this.choice("Relation");
    this.to = this.choice("To");
    this.button = el("button", { type: "button", class: "plain relate", on: { click: () => this.relate() } }, "Relate");
    this.list = el("ul", { class: "marks", "aria-label": "Relations" });
    this.row = el("div", { class: "row" }, [this.from, this.type, this.to].flatMap((one) => [one.label, one.select]), this.button);
    this.node = el("div", { class: "relating", role: "group", "aria-label": "Relations of this note" }, this.row, this.list);
  }

  choice(name) {
    const select = el("select", { id: unique("relate") });
    return { select, label: el("label", { for: select.id, class: "quiet" }, name) };
  }

  /** Draws again for these marks; relations whose marks or names are gone go too. A new mark becomes the next end. */
  draw(marks) {
    const names = this.names();
    const fresh = marks.find((mark) => !this.marks.includes(mark));
    let [from, to] = [this.marks[this.from.select.value], this.marks[this.to.select.value]];
    if (fresh && this.marks.length) [from, to] = [marks.includes(to) && this.marks.length > 1 ? to : this.marks[0], fresh];
    this.marks = [...marks];
    this.pairs = this.pairs.filter((pair) => names.includes(pair.type) && marks.includes(pair.head) && marks.includes(pair.tail));
    const places = marks.map((mark, index) => [said(this.text, mark), index]);
    options(this.from.select, places, marks.indexOf(from));
    options(this.to.select, places, marks.indexOf(to));
    options(this.type.select, names.map((name) => [name, name]), Math.max(0, names.indexOf(this.type.select.value)));
    this.row.hidden = marks.length < 2 || !names.length;
    this.list.replaceChildren(...this.pairs.map((pair) => el("li", { style: { "--own": `var(--hue-${this.hue(pair)})` } }, this.told(pair),
      el("button", { type: "button", class: "plain small", "aria-label": `Remove ${this.told(pair)}`, on: { click: () => this.remove(pair) } }, "×"))));
  }

  relate() {
    const [head, tail, type] = [this.marks[this.from.select.value], this.marks[this.to.select.value], this.type.select.value];
    if (!head || !tail || head === tail) return this.announce("A relation needs two different marks.");
    const pair = { type, head, tail };
    if (this.pairs.some((one) => one.type === type && one.head === head && one.tail === tail)) return this.announce("This relation is there already.");
    this.pairs.push(pair);
    this.changed();
    this.announce(`Related: ${this.told(pair)}`);
  }

  remove(pair) {
    this.pairs = this.pairs.filter((one) => one !== pair);
    this.changed();
    this.button.focus();
    this.announce(`Removed: ${this.told(pair)}`);
  }

  told({ type, head, tail }) {
    const words = (mark) => mark.spans.map(([start, end]) => this.text.slice(start, end)).join(" … ");
    return `${words(head)} ${type} ${words(tail)}`;
  }

  hue(pair) {
    return this.names().indexOf(pair.type) % 8;
  }

  /** As arcs want them. */
  arcs() {
    return this.pairs.map((pair) => ({ type: pair.type, head: this.marks.indexOf(pair.head), tail: this.marks.indexOf(pair.tail), hue: this.hue(pair) }));
  }

  /** As the server wants them. */
  relations() {
    return this.arcs().map(({ type, head, tail }) => ({ type, head, tail }));
  }
}

function options(select, values, chosen) {
  select.replaceChildren(...values.map(([text, value]) => el("option", { value }, text)));
  if (values.length) select.selectedIndex = Math.max(0, chosen);
}
