"""The report in a real browser, by clicks and keys: headless Chromium, where there is one."""

from __future__ import annotations

import os
import shutil

import pytest
from report_records import record, turn, write

from rlpa_env import Point
from rlpa_env.report import write_report

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install '.[dev]'")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs a browser: apt-get install chromium, or google-chrome")

BAD = "<script>window.hacked=1</script></script><img src=x onerror='window.hacked=2'> & \u2028 @SCRIPT@"
WAIT = 60_000  # ms; a busy machine is slow to draw


def turns(level, **more):
    return [turn(profile=level, response=1.0, hits=[[0, 0]], told=[0, 1], **more)] + [
        turn(profile=level + 0.1 * k, response=float(k % 2), hits=[[0, 0], [1, 3]], told=[0, 1], reasons={} if k % 2 else {"logic": BAD}) for k in (1, 2)
    ]


def talks(agent, level):
    """Three people, three turns each: a hit, then also a lucky hit, bait and an invention."""
    points = [Point("Age", "34"), Point("Location", "Porto"), Point("Interests", "golf"), Point("Pets", f"snake {BAD}")]
    said = [("Hello", points[:1], "Hi."), (f"My sister plays golf. {BAD}", points, f"Fine. {BAD}"), ("So?", points, "Yes.")]
    truth = {"Age": "34", "Interests": ["chess", f"tea {BAD}"], "Location": "Porto"}
    people = [record(agent, f"person {i}", turns(level + 0.01 * i), said, truth) for i in range(3)]
    last = people[-1]
    last["messages"][2]["content"] = f"no form {BAD}"
    last["turns"][0] |= {"parse_error": "no_profile", "reward": 0.0, "profile": 0.0, "hits": []}
    last["stop_reason"] = "user_left"
    return people


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    names = (("prior", 0.1), (f"mine {BAD}", 0.4), ("twin", 0.4), ("oracle", 0.9))
    write(folder / "runs" / "episodes.jsonl", [r for name, level in names for r in talks(name, level)], torn='{"torn')
    lines = [{"iteration": i, "return": 0.1 * i, "kl_per_turn": 0.2 * i, "profile/grounded_f1": 0.01 * i, "health": BAD} for i in range(1, 9)]
    write(folder / "runs" / "train" / "metrics.jsonl", lines)
    return write_report([folder / "runs"], folder / "report.html").path.as_uri()


@pytest.fixture(scope="module")
def chromium():
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"] if root else [], timeout=WAIT)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium, address):
    """The open report; at the end: nothing was asked of any network, no script but ours ran, nothing went wrong."""
    context = chromium.new_context(viewport={"width": 1400, "height": 900}, color_scheme="light")
    page = context.new_page()
    page.set_default_timeout(WAIT)
    asked, wrong = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.on("dialog", lambda dialog: (wrong.append("dialog"), dialog.dismiss()))
    page.goto(address)
    yield page
    assert [url for url in asked if url != address and not url.startswith("data:")] == []
    assert page.evaluate("typeof window.hacked") == "undefined"
    assert page.locator("img, iframe, script:not(#data):not(body > script)").count() == 0
    assert wrong == []
    context.close()


def open_dialogue(page, agent, person):
    page.locator("#dialogues select").nth(1).select_option(label=agent)
    page.get_by_role("option", name=person).click()


def now(page):
    return page.locator(".turns [aria-current]").inner_text().split()[0]


def test_everything_is_shown_and_text_stays_text(page):
    assert page.locator("#leaderboard tbody tr").count() == 4
    rows = page.locator("#leaderboard tbody tr").all_inner_texts()
    assert rows[0].startswith("1")
    assert "oracle" in rows[0]
    assert "tied with twin" in next(row for row in rows if "mine" in row)
    assert BAD in page.locator("#leaderboard th.name bdi").all_text_contents()[1]
    assert page.locator("#alignment path.line").count() == 4
    assert page.locator("#alignment path.band").count() == 4
    assert page.locator("#training figure").count() == 3  # return, KL, grounded F1; no empty panels
    assert "torn line" in page.locator("#notes").inner_text()
    assert page.locator("#nav a").all_inner_texts() == ["Leaderboard", "Alignment", "Training", "Dialogues"]


def test_leaderboard_sorts_and_compares_with_one_agent(page):
    names = page.locator("#leaderboard tbody th.name > bdi:first-child")
    heading = page.locator("#leaderboard thead button", has_text="return").first
    heading.click()
    heading.click()
    assert names.first.inner_text() == "prior"
    assert page.locator("#leaderboard thead th[aria-sort]").get_attribute("aria-sort") == "ascending"
    page.locator("#leaderboard select").select_option(label="twin")
    cells = page.locator("#leaderboard tbody tr", has_text="prior").first.locator("td").all_inner_texts()
    assert any("worse" in cell and "−0.90" in cell for cell in cells)  # three turns of 0.3 each
    assert "itself" in page.locator("#leaderboard tbody").inner_text()


def test_a_dialogue_shows_hits_misses_and_inventions_with_marks_and_words(page):
    open_dialogue(page, "oracle", "person 0")
    page.locator(".turns button").nth(1).click()
    points = page.locator(".panel .points").all_inner_texts()
    assert "≠ not true" in points[0]
    assert "✗ invented" in points[0]
    assert [page.locator(f".panel .counts .{kind}").inner_text() for kind in ("hit", "lucky", "missed", "untold")] == [
        "✓ 1 hit", "◇ 1 lucky", "○ 1 missed", "· 1 not told",
    ]  # fmt: skip
    assert page.locator(".panel .verdicts .yes").count() == 5
    assert "1.00" in page.locator(".panel .rewards").inner_text()
    page.locator(".turns button").nth(2).click()
    assert page.locator(".panel .verdicts .no").count() == 5
    assert BAD in page.locator(".panel .why").text_content()
    assert BAD in page.locator(".talk").text_content()
    assert page.locator(".exchange.now .mark").first.inner_text() == "Turn 3"


def test_malformed_turns_and_people_who_left_are_found(page):
    page.locator("#dialogues select").nth(2).select_option("malformed")
    assert page.locator(".people li").all_inner_texts()[0].startswith("person 2")
    assert page.locator(".people li").count() == 1
    assert "the person left after 3 turns" in page.locator(".who").inner_text()
    assert "no_profile" in page.locator(".talk").inner_text()
    page.locator(".panel summary", has_text="malformed completion").click()
    assert BAD in page.locator(".panel .raw").text_content()
    page.locator("#dialogues select").nth(2).select_option("failure")
    assert page.locator(".people li").count() == 0
    assert page.get_by_text("No dialogue of this agent is like that.").is_visible()


def test_keys_go_through_turns_people_and_agents(page):
    open_dialogue(page, "oracle", "person 0")
    page.locator(".talk").focus()
    page.keyboard.press("ArrowRight")
    assert now(page) == "2"
    page.keyboard.press("End")
    page.keyboard.press("ArrowRight")  # there is no fourth
    assert now(page) == "3"
    assert "Turn 3 of 3" in page.locator("#dialogues [aria-live]").text_content()
    page.keyboard.press("j")
    assert page.locator(".people [aria-selected=true]").inner_text().startswith("person 1")
    assert now(page) == "3"  # the same turn, to compare
    page.keyboard.press("k")
    page.keyboard.press("k")
    assert page.locator(".people [aria-selected=true]").inner_text().startswith("person 0")
    page.keyboard.press("Home")
    assert now(page) == "1"
    page.keyboard.press("]")
    assert page.locator(".who strong").text_content() != "oracle"
    assert "person 0" in page.locator(".who").inner_text()
    page.keyboard.press("[")
    assert page.locator(".who strong").text_content() == "oracle"
    page.locator(".people").focus()
    page.keyboard.press("ArrowDown")
    assert page.locator(".people [aria-selected=true]").inner_text().startswith("person 1")
    assert page.evaluate("document.activeElement.getAttribute('aria-activedescendant')") == page.locator(".people [aria-selected=true]").get_attribute("id")


def test_letters_do_nothing_outside_the_browser_and_in_choices(page):
    open_dialogue(page, "oracle", "person 0")
    page.locator("#theme").focus()
    page.keyboard.press("j")
    page.keyboard.press("ArrowRight")
    page.locator("#dialogues select").nth(2).focus()
    page.keyboard.press("ArrowRight")
    assert now(page) == "1"
    assert page.locator(".people [aria-selected=true]").inner_text().startswith("person 0")


def test_tab_reaches_every_part_and_focus_is_seen(page):
    reached = set()
    for _ in range(70):
        page.keyboard.press("Tab")
        where = page.evaluate("""() => { const e = document.activeElement; const s = getComputedStyle(e);
            return [e.id || e.getAttribute('aria-label') || e.className || e.tagName, s.outlineStyle, parseFloat(s.outlineWidth)] }""")
        reached.add(where[0])
        if where[0] != "BODY":
            assert where[1] != "none", where
            assert where[2] >= 2, where
        if where[0] == "Guess, verdicts and rewards of the turn":
            break
    assert {"theme", "People", "Conversation", "Turn 1, reward 1.90"} <= reached


def test_a_link_leads_to_the_turn(page, address):
    open_dialogue(page, "oracle", "person 1")
    page.locator(".turns button").nth(2).click()
    link = page.url
    page.goto("about:blank")
    page.goto(link)
    assert now(page) == "3"
    assert page.locator(".who").inner_text().startswith("oracle")
    page.goto("about:blank")
    page.goto(f"{address}#dialogue=999&turn=999")  # of another report
    assert now(page) == "1"
    page.goto("about:blank")
    page.goto(address)


def test_charts_are_read_with_keys_and_lines_can_be_hidden(page):
    picture = page.locator("#alignment svg[role=img]")
    picture.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    tip = page.locator("#alignment .tip")
    assert "turn 2" in tip.inner_text()
    assert "100.0" in tip.inner_text()
    assert tip.locator("div").count() == 4
    box, around = tip.bounding_box(), page.locator("#alignment figure").bounding_box()
    assert around["x"] <= box["x"]
    assert box["x"] + box["width"] <= around["x"] + around["width"]
    assert around["y"] <= box["y"] <= around["y"] + 80
    assert box["height"] < 200
    button = page.locator("#alignment .legend button", has_text="prior")
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    picture.focus()
    page.keyboard.press("ArrowRight")
    assert tip.locator("div").count() == 3
    assert "prior" in picture.get_attribute("aria-label")


CONTRAST = """() => {
  const parse = (c) => { const m = c.match(/[\\d.]+/g).map(Number); return m.length < 4 ? [...m, 1] : m; };
  const over = (a, b) => [0, 1, 2].map((i) => a[i] * a[3] + b[i] * (1 - a[3])).concat(1);
  const light = (c) => { const [r, g, b] = c.map((v) => v / 255).map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const ground = (e) => { const all = []; for (; e; e = e.parentElement) all.push(parse(getComputedStyle(e).backgroundColor));
    return all.reverse().reduce((below, own) => over(own, below), [255, 255, 255, 1]); };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const low = []; let seen = 0;
  for (let node; (node = walker.nextNode()); ) {
    const e = node.parentElement;
    if (!node.data.trim() || e.closest("script, noscript, option, .skip, .out") || !e.checkVisibility()) continue;
    const style = getComputedStyle(e);
    const ink = parse(e instanceof SVGElement ? style.fill : style.color);
    const below = ground(e);
    const [a, b] = [light(over(ink, below)), light(below)].sort((x, y) => y - x);
    seen += 1;
    if ((a + 0.05) / (b + 0.05) < 4.5) low.push([((a + 0.05) / (b + 0.05)).toFixed(2), e.className.baseVal ?? e.className, node.data.slice(0, 40)].join(" | "));
  }
  return [seen, low];
}"""


def test_readable_in_light_and_dark_and_the_choice_is_kept(page, chromium, address):
    open_dialogue(page, f"mine {BAD}", "person 2")
    for summary in page.locator("summary").all():
        summary.click()
    grounds = []
    for label in ("Dark", "Light"):
        for index in (0, 2):
            page.locator(".turns button").nth(index).click()
            seen, low = page.evaluate(CONTRAST)
            assert seen > 150
            assert low == []
        grounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert label in page.locator("#theme").inner_text()
        page.locator("#theme").click()
    assert grounds[0] != grounds[1]
    page.locator("#theme").click()
    for _ in range(WAIT // 500):  # the browser keeps what is stored in another process, a moment after the call; how long, depends
        page.wait_for_timeout(500)
        page.reload()
        if page.evaluate("getComputedStyle(document.body).backgroundColor") == grounds[1]:
            break
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == grounds[1]
    dark = chromium.new_context(color_scheme="dark").new_page()
    dark.goto(address, timeout=WAIT)
    assert dark.evaluate("getComputedStyle(document.body).backgroundColor") == grounds[1]  # as the system wishes
    dark.context.close()


def test_a_narrow_window_scrolls_only_down(page):
    page.set_viewport_size({"width": 400, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
