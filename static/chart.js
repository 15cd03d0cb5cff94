// A line of the last minutes: filled, scaled to a round number, with the value under the pointer.

// Seconds a chart shows, and its height, in the units of its drawing.
const SPAN_S = 300;
const HEIGHT = 100;

// The next of 1, 2, 5, 10, 20, 50, ... that is enough.
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(1, value)));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value);
}

function ago(seconds) {
  return seconds < 60 ? `${Math.round(seconds)} s ago` : `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s ago`;
}

const brief = (value) => (Number.isInteger(value) ? value.toLocaleString("en") : value.toFixed(1));

export class Chart {
  constructor(figure) {
    this.figure = figure;
    this.points = [];                  // { age, value }, the oldest first
    this.pointer = null;               // the age under the pointer
    this.drawing = figure.querySelector("svg");
    this.drawing.addEventListener("pointermove", (event) => {
      const { left, width } = this.drawing.getBoundingClientRect();
      this.pointer = SPAN_S * (1 - (event.clientX - left) / width);
      this.draw();
    });
    this.drawing.addEventListener("pointerleave", () => { this.pointer = null; this.draw(); });
  }

  show(points) {
    this.points = points.filter(({ age }) => age <= SPAN_S);
    this.draw();
  }

  draw() {
    const { points } = this;
    if (points.length === 0) return;
    const peak = points.reduce((most, { value }) => Math.max(most, value), 0);
    const top = roundUp(peak);
    const x = ({ age }) => (SPAN_S - age).toFixed(1);
    const y = ({ value }) => (HEIGHT * (1 - value / top)).toFixed(1);
    const line = points.map((point, n) => `${n ? "L" : "M"}${x(point)} ${y(point)}`).join("");
    this.path("line", line);
    this.path("area", `${line}V${HEIGHT}H${x(points[0])}Z`);
    const at = this.pointer === null ? points.at(-1) : this.nearest(this.pointer);
    this.path("cursor", this.pointer === null ? "" : `M${x(at)} 0V${HEIGHT}`);
    this.text("now", brief(at.value));
    this.text("peak", this.pointer === null ? `peak ${brief(peak)}` : ago(at.age));
  }

  nearest(age) {
    return this.points.reduce((best, point) => (Math.abs(point.age - age) < Math.abs(best.age - age) ? point : best));
  }

  path(name, shape) {
    this.drawing.querySelector(`.${name}`).setAttribute("d", shape);
  }

  text(name, words) {
    const element = this.figure.querySelector(`.${name}`);
    if (element.textContent !== words) element.textContent = words;
  }
}

// Answers a second, from the totals at each sample.
export function rates({ ago_s: ages, answered }) {
  return ages.slice(1).map((age, n) => ({ age, value: Math.round((10 * (answered[n + 1] - answered[n])) / (ages[n] - age)) / 10 }));
}

export function column(trend, name) {
  return trend.ago_s.map((age, n) => ({ age, value: trend[name][n] }));
}
