// One dialogue: what was said, and at one turn the guess against the truth, the verdicts and the rewards.

const KINDS = { // mark, word, what it means; the order of the counts
  hit: ["✓", "hit", "listed, true, and it had been told"],
  lucky: ["◇", "lucky", "listed and true, but it had not been told"],
  missed: ["○", "missed", "told, but not listed"],
  untold: ["·", "not told", "true, but the person has not told it yet"],
  wrong: ["≠", "not true", "listed and not true of them, though something said sounds like it"],
  invented: ["✗", "invented", "listed, not true, and nothing said supports it"],
  unknown: ["?", "unknown", "the file does not say what became of it"],
};
const ENDS = { turn_limit: "turn limit reached", user_left: "the person left", failure: "cut short by a failure", unfinished: "left unfinished" };

function total(dialogue) {
  return dialogue.turns.reduce((sum, turn) => sum + (turn.valid ? turn.reward : 0), 0);
}

/** How often each kind occurs at a turn: true points by state, and guessed points that hit none. */
function tally(turn) {
  const kinds = [...turn.states, ...turn.guesses.filter((guess) => guess[3] < 0).map((guess) => guess[2])];
  return Object.keys(KINDS).map((kind) => [kind, kinds.filter((other) => other === kind).length]).filter(([, count]) => count);
}

function counts(turn) {
  return h("div", { class: "counts" }, tally(turn).map(([kind, count]) => h("span", { class: kind }, `${KINDS[kind][0]} ${count} ${KINDS[kind][1]}`)));
}

function tag(kind) {
  return h("span", { class: "tag" }, `${KINDS[kind][0]} ${KINDS[kind][1]}`);
}

function pointText(slot, value) {
  return [slot ? h("span", { class: "slot" }, said(slot), ": ") : null, said(value)];
}

/** The conversation, each exchange with the message that the action answers. */
function talk(dialogue, choose) {
  const parts = dialogue.turns.map((turn, index) => h("div", { class: "exchange", "data-turn": index, click: () => choose(index) },
    h("div", { class: "mark" }, `Turn ${index + 1}`),
    bubble("user", "Person", turn.user),
    bubble("agent", "Agent", turn.reply || "(says nothing)"),
    turn.malformed ? h("div", { class: "mark flag" }, "✗ malformed: ", said(turn.malformed), ", earns 0") : null,
    turn.valid ? null : h("div", { class: "mark flag" }, "✗ no valid reward: ", said(dialogue.error || "a model failed"))));
  if (dialogue.last) parts.push(h("div", { class: "exchange" }, h("div", { class: "mark" }, `After turn ${dialogue.turns.length}`), bubble("user", "Person", dialogue.last)));
  return parts;
}

function bubble(role, name, text) {
  return h("div", { class: `bubble ${role}` }, h("b", null, name), said(text, "text"));
}

/** Guess against truth, verdicts and rewards of one turn. */
function panel(dialogue, index) {
  const turn = dialogue.turns[index];
  const truth = dialogue.truths[turn.truth];
  const shifted = index > 0 && turn.truth !== dialogue.turns[index - 1].truth;
  const astray = turn.guesses.filter((guess) => guess[3] < 0);
  return [
    h("h3", null, `Turn ${index + 1} of ${dialogue.turns.length}`),
    rewards(turn),
    h("h3", null, "Verdicts on the reply"),
    verdicts(turn),
    h("h3", null, "Guess against truth"),
    shifted ? h("p", { class: "flag" }, "The person has changed: the truth is a new one from this turn on.") : null,
    counts(turn),
    turn.guesses.length ? null : h("p", { class: "help" }, "Nothing was listed."),
    astray.length ? h("p", { class: "help" }, "Listed, and not in the profile:") : null,
    strayed(astray.slice(0, 6)),
    astray.length > 6 ? h("details", null, h("summary", null, `${astray.length - 6} more`), strayed(astray.slice(6))) : null,
    h("p", { class: "help" }, "The true profile:"),
    h("ul", { class: "points", "aria-label": "The true profile" }, truth.map((point, at) => truePoint(dialogue, index, point, at))),
    turn.raw ? h("details", null, h("summary", null, "The malformed completion as written"), h("div", { class: "raw text", dir: "auto", tabindex: 0 }, turn.raw)) : null,
    h("details", null, h("summary", null, "What the marks mean"),
      h("ul", { class: "points" }, Object.entries(KINDS).map(([kind, [, , text]]) => h("li", { class: kind }, tag(kind), h("span", null, text))))),
  ];
}

/** Guessed points that hit nothing. */
function strayed(guesses) {
  if (!guesses.length) return null;
  return h("ul", { class: "points", "aria-label": "Listed, and not in the profile" },
    guesses.map(([slot, value, kind]) => h("li", { class: kind }, tag(kind), h("span", null, pointText(slot, value)))));
}

function truePoint(dialogue, index, [slot, value], at) {
  const turn = dialogue.turns[index];
  const state = turn.states[at];
  const earlier = index > 0 ? dialogue.turns[index - 1] : null;
  const place = earlier ? dialogue.truths[earlier.truth].findIndex((point) => point[0] === slot && point[1] === value) : -1;
  const before = place >= 0 ? earlier.states[place] : "untold"; // by its words: after a shift the places are others
  const told = (kind) => kind === "hit" || kind === "missed";
  const guess = turn.guesses.find((other) => other[3] === at);
  const notes = earlier && place < 0 ? ["new in the profile"] : [];
  if (told(state) && (before === "untold" || before === "lucky")) notes.push("just told");
  if (guess && guess[1].toLowerCase() !== value.toLowerCase()) notes.push(h("span", null, "listed as “", said(guess[1]), "”"));
  return h("li", { class: state }, tag(state), h("span", null, pointText(slot, value),
    notes.length ? h("span", { class: "also" }, notes.flatMap((note, i) => (i ? [" · ", note] : [note]))) : null));
}

function verdicts(turn) {
  if (turn.malformed) return h("p", { class: "help" }, "Not judged: the completion was malformed.");
  if (!turn.valid) return h("p", { class: "help" }, "Not judged: a model failed.");
  const list = h("ul", { class: "verdicts" }, DATA.criteria.map((name, i) => h("li", { class: turn.verdicts[i] ? "yes" : "no" },
    turn.verdicts[i] ? "✓ " : "✗ ", name, h("span", { class: "out" }, turn.verdicts[i] ? " passed" : " failed"))));
  const because = DATA.criteria.filter((name, i) => !turn.verdicts[i] && turn.reasons[name]);
  const why = because.length ? h("ul", { class: "why" }, because.map((name) => h("li", null, `${name}: `, said(turn.reasons[name])))) : null;
  const shown = turn.al === null ? null : h("p", { class: "help" }, `The judge who knows the true profile: ${turn.al ? "✓ passes it" : "✗ does not pass it"} (AL)`);
  return h("div", null, list, why, shown);
}

function rewards(turn) {
  const line = (name, value) => [h("span", null, name), h("span", { class: "meter", "aria-hidden": "true" }, width(h("i"), value)), h("b", null, number(value, 2))];
  const more = [`F1 ${number(turn.f1, 3)}`, `grounded F1 ${number(turn.grounded_f1, 3)}`];
  if (turn.patience !== null) more.push(`patience left ${number(turn.patience, Number.isInteger(turn.patience) ? 0 : 2)}`);
  return h("div", null,
    h("div", { class: "rewards" }, line("profile reward", turn.profile), line("response reward", turn.response)),
    h("p", { class: "help" }, `reward of the turn ${number(turn.reward, 2)} · ${more.join(" · ")}`));
}

function width(node, share) {
  node.style.width = `${Math.max(0, Math.min(1, share)) * 100}%`; // through the object model, which the page's policy allows
  return node;
}
