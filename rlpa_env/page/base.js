// Elements, numbers and the theme. Text reaches the page through text nodes only.

const DATA = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";

/** An element. `about`: attributes; functions become listeners, true a bare attribute, null and false none. */
function h(tag, about, ...children) {
  return fill(document.createElement(tag), about, children);
}

/** An SVG element. */
function s(tag, about, ...children) {
  return fill(document.createElementNS(SVG, tag), about, children);
}

function fill(node, about, children) {
  for (const [key, value] of Object.entries(about || {})) {
    if (typeof value === "function") node.addEventListener(key, value);
    else if (value === true) node.setAttribute(key, "");
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(key, String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}

/** Text that somebody else wrote: isolated, so that its writing direction moves nothing around it. */
function said(text, kind) {
  return h("bdi", { class: kind || null, dir: "auto" }, String(text));
}

function number(value, digits) {
  if (value === null || value === undefined) return "–";
  const text = value.toFixed(digits);
  return (Number(text) === 0 ? text.replace("-", "") : text).replace("-", "−"); // no minus zero
}

function range(triple, digits) {
  return `${number(triple[1], digits)} … ${number(triple[2], digits)}`;
}

function plural(count, one, many) {
  return `${count.toLocaleString("en")} ${count === 1 ? one : many || one + "s"}`;
}

/** Name of a board, for headings and choices. */
function boardName(board) {
  return [board.env, board.split, board.detail].filter(Boolean).join(" · ");
}

/** The theme follows the system until the button is pressed; the choice is kept where the browser allows. */
function theme() {
  const button = document.getElementById("theme");
  const root = document.documentElement;
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);
  const label = () => {
    button.textContent = dark() ? "☀ Light" : "☾ Dark";
    button.setAttribute("aria-label", dark() ? "Use light colours" : "Use dark colours");
  };
  try {
    const kept = localStorage.getItem("rlpa-report-theme");
    if (kept === "dark" || kept === "light") root.dataset.theme = kept;
  } catch { /* a browser that keeps nothing for local files: the system's choice then */ }
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    try {
      localStorage.setItem("rlpa-report-theme", root.dataset.theme);
    } catch { /* see above */ }
    label();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", label);
  label();
}
