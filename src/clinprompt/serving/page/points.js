// The server counts characters as Unicode code points, JavaScript as UTF-16 units. Here a text is a list of code points.

export class Text {
  constructor(text) {
    this.text = text;
    this.points = Array.from(text);
  }

  get length() {
    return this.points.length;
  }

  slice(start, end) {
    return this.points.slice(start, end).join("");
  }

  /** Words and single other signs as [start, end). */
  words() {
    const found = [];
    let start = -1;
    this.points.forEach((point, place) => {
      const inside = /[\p{L}\p{N}\p{M}_]/u.test(point);
      if (inside && start < 0) start = place;
      if (!inside && start >= 0) {
        found.push([start, place]);
        start = -1;
      }
      if (!inside && /\S/u.test(point)) found.push([place, place + 1]);
    });
    if (start >= 0) found.push([start, this.length]);
    return found;
  }

  /** A span without white space at its ends; null if nothing is left. */
  trimmed([start, end]) {
    while (start < end && /\s/u.test(this.points[start])) start += 1;
    while (end > start && /\s/u.test(this.points[end - 1])) end -= 1;
    return start < end ? [start, end] : null;
  }
}

/** Code points in a piece of JavaScript text. */
export const count = (text) => Array.from(text).length;
