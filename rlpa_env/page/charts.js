// Line charts: colour, dash and marker tell lines apart; the pointer or the arrow keys read values off.

const DASHES = ["", "7 3", "2 3", "9 3 2 3", "4 4", "12 4"];
const MARKS = [
  (x, y) => `M${x - 3.5} ${y}a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0 -7 0`,
  (x, y) => `M${x - 3.2} ${y - 3.2}h6.4v6.4h-6.4z`,
  (x, y) => `M${x} ${y - 4.4}l4 7h-8z`,
  (x, y) => `M${x} ${y - 4.6}l4.2 4.6l-4.2 4.6l-4.2 -4.6z`,
  (x, y) => `M${x} ${y + 4.4}l4 -7h-8z`,
];
const WIDE = { width: 560, height: 300, left: 44, right: 14, top: 12, bottom: 36 };
const SMALL = { ...WIDE, width: 400, height: 210 };

/** A swatch of line number `index`, for legends and tips. */
function swatch(index) {
  return s("svg", { width: 30, height: 12, viewBox: "0 0 30 12", "aria-hidden": "true" },
    s("line", { class: `line s${index % 8}`, "stroke-dasharray": DASHES[index % 6], x1: 0, x2: 30, y1: 6, y2: 6 }),
    s("path", { class: `f${index % 8}`, d: MARKS[index % 5](15, 6) }));
}

/** Round steps of an axis that span [low, high]. */
function steps(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((size) => size >= rough * 0.999);
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9) * step; at <= high + step * 1e-6; at += step) found.push(Math.abs(at) < step * 1e-6 ? 0 : at);
  return found;
}

/**
 * A chart. Each line: {name, index, x, y, low, high, hollow}; y may hold nulls. `domain`: [low, high] of y, else from
 * the lines. The figure knows `show(set of indices)`.
 */
function chart({ title, help, across, lines, domain, digits, size = WIDE }) {
  const xs = [...new Set(lines.flatMap((line) => line.x))].sort((a, b) => a - b);
  const values = lines.flatMap((line) => [...line.y, ...(line.low || []), ...(line.high || [])]).filter((v) => v !== null && v !== undefined);
  let [low, high] = domain || [Math.min(0, ...values), Math.max(0, ...values)];
  if (high === low) high = low + 1;
  const [first, last] = [xs[0], xs[xs.length - 1] === xs[0] ? xs[0] + 1 : xs[xs.length - 1]];
  const X = (x) => size.left + ((size.width - size.left - size.right) * (x - first)) / (last - first);
  const Y = (y) => size.height - size.bottom - ((size.height - size.top - size.bottom) * (y - low)) / (high - low);

  const summary = `${title}, ${across} ${xs[0]} to ${xs[xs.length - 1]}: ` + lines.map((line) => `${line.name} ${ends(line, digits)}`).join("; ");
  const picture = s("svg", { viewBox: `0 0 ${size.width} ${size.height}`, role: "img", tabindex: 0, "aria-label": summary });
  for (const at of steps(low, high, 5)) {
    picture.append(s("line", { class: "grid", x1: size.left, x2: size.width - size.right, y1: Y(at), y2: Y(at) }),
      s("text", { x: size.left - 8, y: Y(at) + 4, "text-anchor": "end" }, tick(at)));
  }
  const marks = xs.length <= 12 ? xs : steps(first, last, 8).filter(Number.isInteger);
  for (const at of marks) picture.append(s("text", { x: X(at), y: size.height - 16, "text-anchor": "middle" }, tick(at)));
  picture.append(s("text", { x: size.width - size.right, y: size.height - 2, "text-anchor": "end" }, across));

  const groups = lines.map((line) => {
    const group = s("g");
    if (line.low) group.append(s("path", { class: `band f${line.index % 8}`, d: band(line, X, Y) }));
    if (!line.hollow) group.append(s("path", { class: `line s${line.index % 8}`, "stroke-dasharray": DASHES[line.index % 6], d: path(line, X, Y) }));
    if (line.hollow || line.x.length <= 24) {
      const dots = line.x.map((x, i) => (real(line.y[i]) ? MARKS[line.index % 5](X(x), Y(line.y[i])) : "")).join("");
      group.append(s("path", { class: line.hollow ? `hollow s${line.index % 8}` : `f${line.index % 8}`, d: dots }));
    }
    picture.append(group);
    return group;
  });
  const figure = h("figure", { class: "chart sheet" }, h("figcaption", null, title, help ? h("span", { class: "help" }, help) : null), picture);
  reader(figure, picture, xs, lines, groups, { X, size, digits, across });
  figure.show = (shown) => lines.forEach((line, i) => groups[i].setAttribute("visibility", shown.has(line.index) ? "visible" : "hidden"));
  return figure;
}

function real(value) {
  return value !== null && value !== undefined;
}

function tick(at) {
  return String(Number(at.toPrecision(6))).replace("-", "−");
}

function ends(line, digits) {
  const known = line.y.filter(real);
  return known.length ? `${number(known[0], digits)} to ${number(known[known.length - 1], digits)}` : "no figures";
}

function path(line, X, Y) {
  let pen = "M";
  let text = "";
  line.x.forEach((x, i) => {
    if (!real(line.y[i])) { pen = "M"; return; }
    text += `${pen}${X(x).toFixed(1)} ${Y(line.y[i]).toFixed(1)}`;
    pen = "L";
  });
  return text;
}

function band(line, X, Y) {
  const at = line.x.map((_, i) => i).filter((i) => real(line.low[i]) && real(line.high[i]));
  if (!at.length) return "";
  const up = at.map((i) => `${X(line.x[i]).toFixed(1)} ${Y(line.high[i]).toFixed(1)}`);
  const down = at.reverse().map((i) => `${X(line.x[i]).toFixed(1)} ${Y(line.low[i]).toFixed(1)}`);
  return `M${up.concat(down).join("L")}Z`;
}

/** Values at one place of the axis, beside the pointer or moved along by the arrow keys. */
function reader(figure, picture, xs, lines, groups, { X, size, digits, across }) {
  const cross = s("line", { class: "cross", y1: size.top, y2: size.height - size.bottom, visibility: "hidden" });
  const tip = h("div", { class: "tip", hidden: true, role: "status" });
  picture.append(cross);
  figure.append(tip);
  let at = -1;
  const show = (index) => {
    at = Math.max(0, Math.min(xs.length - 1, index));
    const x = xs[at];
    const rows = lines.map((line, i) => [line, groups[i], line.x.indexOf(x)])
      .filter(([line, group, i]) => i >= 0 && real(line.y[i]) && group.getAttribute("visibility") !== "hidden")
      .sort((a, b) => b[0].y[b[2]] - a[0].y[a[2]]);
    for (const end of ["x1", "x2"]) cross.setAttribute(end, X(x));
    cross.setAttribute("visibility", "visible");
    tip.replaceChildren(h("strong", null, `${across} ${tick(x)}`), ...rows.map(([line, , i]) =>
      h("div", null, swatch(line.index), said(line.name), h("b", null, number(line.y[i], digits)),
        line.low ? h("span", { class: "soft" }, `${number(line.low[i], digits)} … ${number(line.high[i], digits)}`) : null)));
    tip.hidden = false;
    const [box, around] = [picture.getBoundingClientRect(), figure.getBoundingClientRect()];
    const middle = box.left - around.left + (X(x) / size.width) * box.width;
    const right = middle + 12 + tip.offsetWidth > around.width;
    tip.style.left = `${Math.max(4, right ? middle - 12 - tip.offsetWidth : middle + 12)}px`;
    tip.style.top = `${box.top - around.top + 8}px`;
  };
  const hide = () => {
    tip.hidden = true;
    cross.setAttribute("visibility", "hidden");
  };
  picture.addEventListener("pointermove", (event) => {
    const box = picture.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * size.width;
    show(xs.reduce((best, _, i) => (Math.abs(X(xs[i]) - x) < Math.abs(X(xs[best]) - x) ? i : best), 0));
  });
  picture.addEventListener("pointerleave", hide);
  picture.addEventListener("blur", hide);
  picture.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (event.key === "Escape") hide();
    if (!by) return;
    event.preventDefault();
    event.stopPropagation();
    show(at + by);
  });
}

/** Buttons that show and hide lines in every chart of a group. */
function legend(names, charts) {
  const shown = new Set(names.map((_, index) => index));
  const update = () => charts.forEach((figure) => figure.show(shown));
  return h("div", { class: "legend", role: "group", "aria-label": "Lines shown" }, names.map((name, index) => {
    const button = h("button", { type: "button", "aria-pressed": "true" }, swatch(index), said(name));
    button.addEventListener("click", () => {
      if (shown.has(index)) shown.delete(index);
      else shown.add(index);
      button.setAttribute("aria-pressed", String(shown.has(index)));
      update();
    });
    return button;
  }));
}

function alignment() {
  const section = document.getElementById("alignment");
  const grid = h("div", { class: "charts wide" });
  section.append(grid);
  for (const board of DATA.boards) {
    const entries = board.entries.filter((entry) => entry.al[0]);
    if (!entries.length) continue;
    section.hidden = false;
    const lines = entries.map((entry, index) => ({
      name: entry.agent, index, x: entry.al[0].map((_, i) => i + 1), y: entry.al[0], low: entry.al[1], high: entry.al[2],
    }));
    const figure = chart({ title: "AL(k)", help: "replies that pass the judge who knows the true profile, %; bands: 95 % over people",
      across: "turn", lines, domain: [0, 100], digits: 1 });
    grid.append(h("div", null, h("h3", null, said(boardName(board))), legend(entries.map((entry) => entry.agent), [figure]), figure, figures(lines, "turn", 1)));
  }
}

/** The same figures as a table, for those who read rather than look. */
function figures(lines, across, digits) {
  const xs = [...new Set(lines.flatMap((line) => line.x))].sort((a, b) => a - b);
  const cell = (line, x) => {
    const i = line.x.indexOf(x);
    if (i < 0 || !real(line.y[i])) return h("td", null, "–");
    return h("td", null, number(line.y[i], digits), line.low ? h("span", { class: "range" }, `${number(line.low[i], digits)} … ${number(line.high[i], digits)}`) : null);
  };
  return h("details", null, h("summary", null, "As a table"), h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Figures of the chart" },
    h("table", null, h("thead", null, h("tr", null, h("th", { scope: "col", class: "name" }, across), xs.map((x) => h("th", { scope: "col" }, String(x))))),
      h("tbody", null, lines.map((line) => h("tr", null, h("th", { scope: "row", class: "name" }, said(line.name)), xs.map((x) => cell(line, x))))))));
}

function training() {
  const section = document.getElementById("training");
  if (!DATA.training.length) return;
  section.hidden = false;
  const charts = DATA.panels.map((panel, p) => {
    const lines = DATA.training.flatMap((run, index) => [
      { name: run.name, index, x: run.x, y: run.series[p].y },
      { name: `${run.name}, validation`, index, x: run.watched_x, y: run.series[p].watched, hollow: true },
    ]).filter((line) => line.y.some(real));
    return lines.length ? chart({ ...panel, title: panel.label, across: "iteration", lines, digits: 3, size: SMALL }) : null;
  }).filter(Boolean);
  const told = DATA.training.filter((run) => run.troubled).map((run) => h("p", { class: "help" }, said(run.name), ": ",
    plural(run.troubled, "iteration"), ` of ${run.x.length} had a note on health; the last, iteration ${run.health[0][0]}: `, said(run.health[0][1])));
  section.append(h("p", { class: "help" }, "By iteration, on training people; hollow marks: on validation people."),
    legend(DATA.training.map((run) => run.name), charts), h("div", { class: "charts" }, charts), ...told);
}
