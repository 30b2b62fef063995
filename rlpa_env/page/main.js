// Everything in its order; sections that have nothing to show stay hidden.

theme();
document.title = DATA.title ? `${DATA.title} · RLPA report` : "RLPA report";
leaderboard();
alignment();
training();
browser();

document.getElementById("what").append("Runs: ", said(DATA.title));
if (DATA.notes.length) {
  document.getElementById("notes").append(DATA.notes.length > 3
    ? h("details", { class: "note" }, h("summary", null, plural(DATA.notes.length, "note"), " on what was read"), DATA.notes.map((note) => h("p", null, said(note))))
    : h("div", { class: "note" }, DATA.notes.map((note) => h("p", null, said(note)))));
}
for (const [id, label] of [["leaderboard", "Leaderboard"], ["alignment", "Alignment"], ["training", "Training"], ["dialogues", "Dialogues"]]) {
  if (!document.getElementById(id).hidden) document.getElementById("nav").append(h("a", { href: `#${id}` }, label));
}
document.querySelector(".skip").hidden = document.getElementById("dialogues").hidden;
