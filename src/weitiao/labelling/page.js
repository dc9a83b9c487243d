"use strict";
const token = location.hash.slice(1);
const $ = (id) => document.getElementById(id);
const KEYS = "123456789abcdefghijklmopqrtvwxyz"; // without n, s and u, which do something else
const chinese = () => $("zh").checked;
const say = (en, zh) => (chinese() ? zh : en);
let state = null, shownAt = 0, busy = false;

async function call(method, path, body) {
  if (busy) return;
  busy = true;
  const slow = setTimeout(() => tell(say("One moment: the model is learning …", "请稍候，模型正在学习……")), 400);
  $("labels").querySelectorAll("button").forEach((each) => { each.disabled = true; });
  try {
    const answer = await fetch(path, {
      method, body: body && JSON.stringify(body), headers: { "X-Weitiao-Token": token }, cache: "no-store",
    });
    const found = await answer.json();
    if (!answer.ok) throw new Error(found.error);
    const moved = !state || !state.item || !found.item || state.item.row !== found.item.row;
    state = found;
    if (moved) { $("note").value = ""; $("find").value = ""; shownAt = performance.now(); }
    tell("");
  } catch (error) {
    const lost = error instanceof TypeError;
    tell(lost ? say("The command has stopped: nothing more is kept. Start it again and reload.",
                    "命令已停止，不再保存。请重新运行后刷新页面。") : error.message, true);
  }
  clearTimeout(slow);
  busy = false;
  draw();
}

function tell(text, bad) {
  $("said").textContent = text;
  $("said").className = bad ? "bad" : "";
}

function give(label) {
  if (!state || !state.item) return;
  const seconds = (performance.now() - shownAt) / 1000;
  call("POST", "/answer", { row: state.item.row, label, note: $("note").value, seconds });
}

const undo = () => { if (state && state.can_undo) call("POST", "/undo", {}); };

function fact(text) {
  const span = document.createElement("span");
  span.textContent = text;
  return span;
}

function draw() {
  if (!state) return;
  const percent = (value) => (100 * value).toFixed(1);
  const { done, passed, total, until_fit, score, gain, item } = state;
  $("who").textContent = say("Annotator: ", "标注者：") + state.annotator;
  $("bar").style.width = (100 * (done + passed)) / Math.max(total, 1) + "%";
  const facts = [say(`${done} labelled, ${passed} passed, of ${total}`, `已标注 ${done}，跳过 ${passed}，共 ${total}`)];
  if (item) facts.push(say(`${until_fit} until the model learns from them`, `再标 ${until_fit} 条后模型重新学习`));
  if (typeof score === "number") facts.push(say(`${percent(score)}% on the test rows`, `测试集 ${percent(score)}%`));
  if (typeof gain === "number") {
    const points = (gain >= 0 ? "+" : "") + percent(gain);
    facts.push(say(`${points} points over random texts`, `比随机选取 ${points} 个百分点`));
  }
  $("facts").replaceChildren(...facts.map(fact));
  $("text").textContent = item ? item.text : say("Every text is labelled or passed. You can close this page and stop the command.",
                                                 "全部文本已标注或跳过。可以关闭本页并停止命令。");
  $("check").hidden = !(item && item.check);
  $("find").hidden = state.labels.length <= KEYS.length;
  $("find").placeholder = say("Find a label ( / )", "查找标签（ / ）");
  $("note").placeholder = say("Note ( N )", "备注（ N ）");
  $("undo").disabled = !state.can_undo;
  $("pass").disabled = !item;
  $("note").disabled = !item;
  drawLabels();
}

function drawLabels() {
  const wish = $("find").value.trim().toLowerCase();
  const guess = state.item && state.item.suggestion;
  const buttons = [];
  state.labels.forEach((label, place) => {
    if (wish && !label.toLowerCase().includes(wish)) return;
    const button = document.createElement("button"), key = document.createElement("kbd"), name = document.createElement("span");
    button.type = "button";
    button.disabled = !state.item || busy;
    key.textContent = (KEYS[place] || "").toUpperCase();
    name.textContent = label;
    if (guess && guess.label === label) {
      button.className = "guess";
      name.textContent += ` (${(100 * guess.score).toFixed(0)}%)`;
    }
    button.append(key, name);
    button.addEventListener("click", () => give(label));
    buttons.push(button);
  });
  $("labels").replaceChildren(...buttons);
}

document.addEventListener("keydown", (event) => {
  const typing = document.activeElement === $("note") || document.activeElement === $("find");
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (typing) {
    if (event.key === "Escape") document.activeElement.blur();
    if (event.key === "Enter") {
      const first = $("labels").querySelector("button");
      if (document.activeElement === $("find") && first && $("find").value.trim()) first.click();
      document.activeElement.blur();
    }
    return;
  }
  const key = event.key.toLowerCase();
  const place = key.length === 1 ? KEYS.indexOf(key) : -1;
  if (key === "s") give("");
  else if (key === "u" || key === "backspace") undo();
  else if (key === "n") $("note").focus();
  else if (key === "/" && !$("find").hidden) $("find").focus();
  else if (place >= 0 && state && place < state.labels.length) give(state.labels[place]);
  else return;
  event.preventDefault();
});
$("pass").addEventListener("click", () => give(""));
$("undo").addEventListener("click", undo);
$("find").addEventListener("input", drawLabels);
document.querySelectorAll(".tongue").forEach((each) => each.addEventListener("change", draw));
call("GET", "/state");
