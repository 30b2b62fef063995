// The leaderboard: every score with its interval, sortable, differences to any one agent paired over people.

function leaderboard() {
  const section = document.getElementById("leaderboard");
  if (!DATA.boards.length) return;
  section.hidden = false;
  section.append(
    h("p", { class: "help" }, "Small figures: 95 % intervals over people. A rank is one more than the number of agents that are clearly better: " +
      "those whose paired difference in return has an interval clear of 0. The others are ties, whatever their means."),
  );
  for (const board of DATA.boards) section.append(boardTable(board));
}

function boardTable(board) {
  const order = { key: null, down: true };
  const compared = board.differences.some((row) => row.some((triple) => triple));
  const columns = DATA.columns.filter((column) => board.entries.some((entry) => entry.scores[column.key]));
  const sizes = new Set(board.entries.map((entry) => `${entry.users} ${entry.episodes}`));
  const size = sizes.size === 1 && board.entries[0].users ? board.entries[0] : null; // else each row says its own
  let against = -1;
  const head = h("tr");
  const body = h("tbody");
  const scale = returnScale(board);

  const heading = (key, label, help) => {
    const sorted = order.key === key;
    const arrow = sorted ? (order.down ? " ▼" : " ▲") : "";
    const press = () => {
      order.down = sorted ? !order.down : key !== "agent";
      order.key = key;
      draw();
      head.querySelector(`[data-key="${key}"]`).focus();
    };
    return h("th", { scope: "col", class: key === "agent" ? "name" : null, "aria-sort": sorted ? (order.down ? "descending" : "ascending") : null },
      h("button", { type: "button", title: help, "data-key": key, click: press }, label + arrow));
  };
  const value = (index) => {
    const entry = board.entries[index];
    if (order.key === "agent") return entry.agent;
    const triple = order.key === "difference" ? difference(board, index, against) : entry.scores[order.key];
    return triple ? triple[0] : -Infinity;
  };
  const draw = () => {
    const rows = board.entries.map((_, index) => index);
    if (order.key !== null) {
      rows.sort((a, b) => (value(a) < value(b) ? -1 : value(a) > value(b) ? 1 : 0) * (order.down ? -1 : 1));
    }
    head.replaceChildren(
      h("th", { scope: "col", class: "rank" }, h("span", null, "rank")),
      heading("agent", "agent", "Sort by name"),
      ...columns.map((column) => heading(column.key, column.label, column.help)),
      ...(against >= 0 ? [heading("difference", "return, difference", "Paired over the same people and seeds")] : []),
      ...(size ? [] : [h("th", { scope: "col" }, h("span", null, "people"))]),
    );
    body.replaceChildren(...rows.map((index) => boardRow(board, index, columns, against, scale, size)));
  };
  draw();
  const choice = h("select", { change: (event) => { against = Number(event.target.value); if (order.key === "difference") order.key = null; draw(); } },
    h("option", { value: -1 }, "nobody"), board.entries.map((entry, index) => h("option", { value: index }, entry.agent)));
  return h("div", null,
    h("h3", null, said(boardName(board))),
    size ? h("p", { class: "help" }, size.episodes ? `${plural(size.episodes, "episode")} of ` : "", plural(size.users, "person", "people"), " for every agent.") : null,
    board.entries.some((entry) => entry.rank !== null) ? null
      : h("p", { class: "help" }, "Best mean return first, and no ranks: which differences are clear can be told from episodes only."),
    compared ? h("div", { class: "controls" }, h("label", null, "Compare with", choice)) : null,
    h("div", { class: "sheet scroll", tabindex: 0, role: "region", "aria-label": `Leaderboard of ${boardName(board)}` },
      h("table", null, h("thead", null, head), body)),
  );
}

function boardRow(board, index, columns, against, scale, size) {
  const entry = board.entries[index];
  const shared = entry.rank !== null && board.entries.filter((other) => other.rank === entry.rank).length > 1;
  const ties = entry.tied.length ? h("span", { class: "tie" }, "tied with ", said(entry.tied.join(", "))) : null;
  const note = entry.note ? h("span", { class: entry.rank === null ? "tie bad" : "tie" }, said(entry.note)) : null;
  return h("tr", null,
    h("td", { class: "rank" }, entry.rank === null ? "–" : `${entry.rank}${shared ? " =" : ""}`),
    h("th", { scope: "row", class: "name" }, said(entry.agent, "named"), ties, note),
    columns.map((column) => {
      const triple = entry.scores[column.key];
      if (!triple) return h("td", null, "–");
      return h("td", null, number(triple[0], column.digits), h("span", { class: "range" }, range(triple, column.digits)),
        column.key === "return" ? scale(triple) : null);
    }),
    against >= 0 ? differenceCell(board, index, against) : null,
    size ? null : h("td", null, entry.users ? String(entry.users) : "–", entry.episodes ? h("span", { class: "range" }, plural(entry.episodes, "episode")) : null),
  );
}

function difference(board, index, against) {
  return board.differences[index][against];
}

function differenceCell(board, index, against) {
  if (index === against) return h("td", { class: "soft" }, "itself");
  const triple = difference(board, index, against);
  if (!triple) return h("td", { class: "soft" }, "not the same people");
  const tie = triple[1] <= 0 && triple[2] >= 0;
  const plus = triple[0] > 0 ? "+" : "";
  return h("td", null, plus + number(triple[0], 2), h("span", { class: "range" }, range(triple, 2)), h("span", { class: "range" }, tie ? "a tie" : triple[0] > 0 ? "better" : "worse"));
}

/** A small picture of the return and its interval, all agents of a board on one scale. */
function returnScale(board) {
  const ends = board.entries.map((entry) => entry.scores.return).filter(Boolean);
  const low = Math.min(0, ...ends.map((triple) => triple[1]));
  const high = Math.max(1e-9, ...ends.map((triple) => triple[2]));
  const x = (value) => 2 + (92 * (value - low)) / (high - low || 1);
  return (triple) => s("svg", { class: "strip", width: 96, height: 10, viewBox: "0 0 96 10", "aria-hidden": "true" },
    s("line", { class: "grid", x1: 2, x2: 94, y1: 5, y2: 5 }),
    s("line", { class: "s0", "stroke-width": 3, x1: x(triple[1]), x2: x(triple[2]), y1: 5, y2: 5 }),
    s("circle", { class: "f0", cx: x(triple[0]), cy: 5, r: 4 }));
}
