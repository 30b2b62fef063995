// The dialogue browser: choose task, agent and person, and go through the turns by keys or by clicking.

const FILTERS = [
  ["all", "all people", () => true],
  ["invented", "with inventions", (d) => d.turns.some((turn) => turn.guesses.some((guess) => guess[2] === "invented"))],
  ["wrong", "with something not true", (d) => d.turns.some((turn) => turn.guesses.some((guess) => guess[2] === "wrong"))],
  ["malformed", "with malformed turns", (d) => d.turns.some((turn) => turn.malformed)],
  ["left", "where the person left", (d) => d.end === "user_left"],
  ["failure", "cut short or unfinished", (d) => d.end === "failure" || d.end === "unfinished"],
];

function browser() {
  const section = document.getElementById("dialogues");
  if (!DATA.played) return;
  section.hidden = false;
  if (!DATA.dialogues.length) {
    section.append(h("p", { class: "help" }, `${plural(DATA.played, "dialogue")} left off, as asked for with --dialogues 0.`));
    return;
  }
  const state = { now: 0, turn: 0, filter: "all" };
  const view = skeleton(section);

  const agentsOf = (board) => [...new Set(DATA.dialogues.filter((d) => d.board === board).map((d) => d.agent))];
  const listed = () => {
    const { board, agent } = DATA.dialogues[state.now];
    const keep = FILTERS.find(([key]) => key === state.filter)[2];
    return DATA.dialogues.map((_, i) => i).filter((i) => DATA.dialogues[i].board === board && DATA.dialogues[i].agent === agent && keep(DATA.dialogues[i]));
  };
  /** The dialogue of an agent with the same person as now, else its first. */
  const sameWith = (board, agent) => {
    const now = DATA.dialogues[state.now];
    const own = DATA.dialogues.map((_, i) => i).filter((i) => DATA.dialogues[i].board === board && DATA.dialogues[i].agent === agent);
    return own.find((i) => DATA.dialogues[i].user === now.user && DATA.dialogues[i].seed === now.seed) ?? own[0];
  };

  const open = (index, turn) => {
    state.now = index;
    state.turn = Math.max(0, Math.min(DATA.dialogues[index].turns.length - 1, turn));
    choices();
    people();
    dialogue();
    step(state.turn);
  };
  const choices = () => {
    const { board, agent } = DATA.dialogues[state.now];
    view.board.replaceChildren(...[...new Set(DATA.dialogues.map((d) => d.board))].map((i) => h("option", { value: i, selected: i === board }, boardName(DATA.boards[i]))));
    view.board.parentElement.hidden = view.board.options.length < 2;
    view.agent.replaceChildren(...agentsOf(board).map((name, i) => h("option", { value: i, selected: name === agent }, name)));
  };
  const people = () => {
    const shown = listed();
    view.people.replaceChildren(...shown.map((i) => person(i, i === state.now, () => open(i, state.turn))));
    view.none.hidden = shown.length > 0;
    const own = view.people.querySelector('[aria-selected="true"]');
    if (own) {
      view.people.setAttribute("aria-activedescendant", own.id);
      within(view.people, own);
    } else view.people.removeAttribute("aria-activedescendant");
    const at = shown.indexOf(state.now);
    view.previous.disabled = at <= 0;
    view.next.disabled = at === shown.length - 1 || !shown.length;
  };
  const dialogue = () => {
    const now = DATA.dialogues[state.now];
    view.who.replaceChildren(h("strong", null, said(now.agent)), h("span", null, "with ", said(now.user)), h("span", { class: "soft" }, typeof now.seed === "number" ? `seed ${now.seed}` : now.seed),
      h("span", null, "return ", h("b", null, number(total(now), 2))), h("span", { class: now.end === "turn_limit" ? "soft" : "flag" }, ENDS[now.end] || said(now.end), ` after ${plural(now.turns.length, "turn")}`));
    view.turns.replaceChildren(...now.turns.map((turn, i) => h("button", { type: "button", "data-turn": i, "aria-label": `Turn ${i + 1}, reward ${number(turn.reward, 2)}`, click: () => step(i) },
      `${i + 1}`, h("small", { "aria-hidden": "true" }, turn.valid ? number(turn.reward, 2) : "✗"))));
    view.talk.replaceChildren(...talk(now, step));
  };
  const step = (turn) => {
    const now = DATA.dialogues[state.now];
    state.turn = Math.max(0, Math.min(now.turns.length - 1, turn));
    for (const button of view.turns.children) {
      if (Number(button.dataset.turn) === state.turn) button.setAttribute("aria-current", "step");
      else button.removeAttribute("aria-current");
    }
    for (const part of view.talk.children) {
      const own = part.dataset.turn === String(state.turn);
      part.classList.toggle("now", own);
      if (own) within(view.talk, part);
    }
    view.panel.replaceChildren(...panel(now, state.turn).filter(Boolean));
    const record = now.turns[state.turn];
    view.spoken.textContent = `Turn ${state.turn + 1} of ${now.turns.length}, ${now.agent} with ${now.user}. Profile reward ${number(record.profile, 2)}, ` +
      `response reward ${number(record.response, 0)}. ${tally(record).map(([kind, count]) => `${count} ${KINDS[kind][1]}`).join(", ")}.`;
    try {
      history.replaceState(null, "", `#dialogue=${state.now + 1}&turn=${state.turn + 1}`);
    } catch { /* some viewers keep no address; the page works without */ }
  };
  const move = (by) => {
    const shown = listed();
    const to = shown[shown.indexOf(state.now) + by];
    if (shown.length && to !== undefined) open(to, state.turn);
  };
  const agentBy = (by) => {
    const { board, agent } = DATA.dialogues[state.now];
    const names = agentsOf(board);
    open(sameWith(board, names[(names.indexOf(agent) + by + names.length) % names.length]), state.turn);
  };

  view.board.addEventListener("change", () => open(sameWith(Number(view.board.value), agentsOf(Number(view.board.value))[0]), state.turn));
  view.agent.addEventListener("change", () => { const { board } = DATA.dialogues[state.now]; open(sameWith(board, agentsOf(board)[Number(view.agent.value)]), state.turn); });
  view.filter.addEventListener("change", () => { state.filter = view.filter.value; const shown = listed(); if (shown.length && !shown.includes(state.now)) open(shown[0], 0); else people(); });
  view.previous.addEventListener("click", () => move(-1));
  view.next.addEventListener("click", () => move(1));
  keys(section, view, { step: (by) => step(state.turn + by), to: (end) => step(end ? Infinity : 0), move, agentBy });
  const asked = /^#dialogue=(\d+)&turn=(\d+)$/.exec(location.hash);
  const known = asked && DATA.dialogues[Number(asked[1]) - 1]; // a link may come from another report
  open(known ? Number(asked[1]) - 1 : 0, known ? Number(asked[2]) - 1 : 0);
  if (known) section.scrollIntoView();
}

/** Keys work while something in the browser has the focus; left and right also when nothing has and it is in view. */
function keys(section, view, act) {
  const table = {
    ArrowLeft: () => act.step(-1), ArrowRight: () => act.step(1), Home: () => act.to(false), End: () => act.to(true),
    j: () => act.move(1), k: () => act.move(-1), "[": () => act.agentBy(-1), "]": () => act.agentBy(1),
  };
  const press = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented || event.target.closest("select, summary")) return;
    if (event.target === view.people && { ArrowDown: 1, ArrowUp: 1, Home: 1, End: 1 }[event.key]) {
      const options = [...view.people.children];
      const at = options.findIndex((option) => option.getAttribute("aria-selected") === "true");
      const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: options.length - 1 }[event.key];
      event.preventDefault();
      if (options[to]) options[to].click();
      return;
    }
    if (!table[event.key]) return;
    event.preventDefault();
    table[event.key]();
  };
  section.addEventListener("keydown", press);
  document.addEventListener("keydown", (event) => {
    const box = section.getBoundingClientRect();
    const visible = box.top < innerHeight * 0.7 && box.bottom > innerHeight * 0.3;
    if (event.target === document.body && visible && (event.key === "ArrowLeft" || event.key === "ArrowRight")) press(event);
  });
}

function person(index, own, choose) {
  const dialogue = DATA.dialogues[index];
  const trouble = dialogue.turns.filter((turn) => turn.malformed).length;
  const facts = [`return ${number(total(dialogue), 2)}`];
  if (dialogue.end !== "turn_limit") facts.push(dialogue.end === "user_left" ? `left after ${dialogue.turns.length}` : dialogue.end);
  if (trouble) facts.push(`${trouble} malformed`);
  return h("li", { role: "option", id: `person-${index}`, "aria-selected": String(own), click: choose }, said(dialogue.user),
    h("span", { class: "help" }, typeof dialogue.seed === "number" ? "" : `${dialogue.seed} · `, facts.join(" · ")));
}

/** Scroll a box, and only it, until one of its parts is in view. */
function within(box, part) {
  const top = part.offsetTop - 8;
  const bottom = part.offsetTop + part.offsetHeight + 8 - box.clientHeight;
  if (box.scrollTop > top) box.scrollTop = top;
  else if (box.scrollTop < bottom) box.scrollTop = Math.min(bottom, top);
}

/** The parts of the browser that stay, empty. */
function skeleton(section) {
  const view = {
    board: h("select"), agent: h("select"),
    filter: h("select", null, FILTERS.map(([key, label]) => h("option", { value: key }, label))),
    previous: h("button", { type: "button" }, "↑ Previous"), next: h("button", { type: "button" }, "↓ Next"),
    people: h("ul", { class: "people sheet", role: "listbox", tabindex: 0, "aria-label": "People" }),
    none: h("p", { class: "help", hidden: true }, "No dialogue of this agent is like that."),
    who: h("div", { class: "who sheet" }), turns: h("div", { class: "turns", role: "group", "aria-label": "Turns, with their rewards" }),
    talk: h("div", { class: "talk sheet", tabindex: 0, role: "region", "aria-label": "Conversation" }),
    panel: h("div", { class: "panel sheet", tabindex: 0, role: "region", "aria-label": "Guess, verdicts and rewards of the turn" }),
    spoken: h("p", { class: "out", role: "status", "aria-live": "polite" }),
  };
  const shown = DATA.dialogues.length;
  const left = DATA.played > shown ? ` ${plural(DATA.played - shown, "dialogue")} of ${DATA.played.toLocaleString("en")} are left off; make the report with --dialogues ${DATA.played} to have them all.` : "";
  section.append(
    h("p", { class: "help" }, h("kbd", null, "←"), " ", h("kbd", null, "→"), " turns · ", h("kbd", null, "j"), " ", h("kbd", null, "k"), " next and previous person · ",
      h("kbd", null, "["), " ", h("kbd", null, "]"), " the same person with another agent · ", h("kbd", null, "Home"), " ", h("kbd", null, "End"),
      " first and last turn.", left),
    h("div", { class: "controls" }, h("label", null, "Task", view.board), h("label", null, "Agent", view.agent), h("label", null, "Show", view.filter), view.previous, view.next),
    h("div", { class: "browser" }, h("div", null, view.people, view.none), h("div", null, view.who, view.turns, view.talk), view.panel), view.spoken);
  return view;
}
