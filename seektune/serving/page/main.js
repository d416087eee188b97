// What the page does: one conversation, or several side by side.

const MOST_COLUMNS = 4; // a browser keeps six connections to a server; one is for the list of models
const REFRESH = 4000; // ms

const $ = (id) => document.getElementById(id);
let models = []; // as /v1/models lists them
let columns = [];

/** Sampling as the API names it; what is left empty is the server's to choose. */
function settings() {
  const chosen = {};
  for (const { name, type, value } of $("sampling").elements) {
    if (value === "") continue;
    if (name === "stop") chosen.stop = value.split("\n").filter(Boolean);
    else chosen[name] = type === "number" ? Number(value) : value;
  }
  return chosen;
}

async function ask(question) {
  if (!question.trim() || !$("stop").hidden) return;
  if (!$("sampling").checkValidity()) {
    $("settings").open = true; // what is hidden cannot be pointed at
    $("sampling").reportValidity();
    return;
  }
  if ($("question").value === question) $("question").value = "";
  busy(true);
  await Promise.all(columns.map((column) => column.ask(question)));
  busy(false);
}

function busy(is) {
  const focused = document.activeElement;
  $("stop").hidden = !is;
  $("send").hidden = is;
  if (focused?.hidden) $(is ? "stop" : "send").focus();
  $("compare").disabled = is || columns.length >= MOST_COLUMNS;
  $("again").hidden = is || !columns.some((column) => column.turns.length);
}

const stop = () => columns.forEach((column) => column.stopper?.abort());

function again() {
  const questions = columns.map((column) => column.takeBack());
  ask(questions.find(Boolean) ?? "");
}

/** One more column: the first model that is not shown yet, with the conversation as the first column has it. */
function compare() {
  const shown = columns.map((column) => column.picker.value);
  const next = models.find(({ id }) => !shown.includes(id)) ?? models[0];
  const column = new Column(next?.id ?? "");
  for (const turn of columns[0].turns) column.add(turn.copy());
  columns.push(column);
  busy(false);
}

function fresh() {
  for (const column of columns) column.clear();
  busy(!$("stop").hidden);
  $("question").focus();
}

function remove(column) {
  column.clear();
  column.node.remove();
  columns = columns.filter((other) => other !== column);
  busy(!$("stop").hidden);
}

/** Who can be asked now; also when adapters were loaded or unloaded meanwhile. */
async function refresh() {
  try {
    const { data } = await (await call("v1/models")).json();
    $("access").hidden = true;
    $("status").textContent = "";
    if (JSON.stringify(data) === JSON.stringify(models)) return;
    models = data;
    const first = (models[1] ?? models[0]).id; // an adapter, where there is one
    for (const column of columns) column.offer(column.picker.value || first);
  } catch (error) {
    $("status").textContent = $("access").hidden ? error.message : "";
  }
}

function askForKey(reason) {
  $("unlock").hidden = false;
  $("refused").textContent = reason;
  if (!$("access").hidden) return;
  $("access").hidden = false;
  $("access").elements.key.focus();
}

async function unlock() {
  key = $("access").elements.key.value;
  sessionStorage.setItem("key", key);
  $("access").elements.key.value = "";
  await refresh();
  if ($("access").hidden) $("question").focus();
}

function translate(root) {
  const words = WORDS[language];
  for (const node of root.querySelectorAll("[data-say]")) node.textContent = words[node.dataset.say];
  for (const node of root.querySelectorAll("[data-label]")) {
    node.ariaLabel = words[node.dataset.label];
    if (node.tagName === "TEXTAREA") node.placeholder = node.ariaLabel;
    else node.title = node.ariaLabel;
  }
}

function speak(chosen) {
  language = chosen;
  sessionStorage.setItem("language", language);
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  $("language").textContent = WORDS[language].other;
  translate(document);
  for (const column of columns) {
    column.offer(column.picker.value);
    for (const turn of column.turns) turn.tell();
  }
}

// ---- keys and buttons

for (const form of document.forms) form.addEventListener("submit", (event) => event.preventDefault());
$("composer").addEventListener("submit", () => ask($("question").value));
$("access").addEventListener("submit", unlock);
$("stop").addEventListener("click", stop);
$("again").addEventListener("click", again);
$("compare").addEventListener("click", compare);
$("fresh").addEventListener("click", fresh);
$("unlock").addEventListener("click", () => ($("access").hidden ? askForKey("") : ($("access").hidden = true)));
$("language").addEventListener("click", () => speak(language === "zh" ? "en" : "zh"));

/** Whether a key belongs to an input method: its Enter takes a word and sends nothing. Safari says only 229. */
const composing = (event) => event.isComposing || event.keyCode === 229;

$("question").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || composing(event)) return;
  event.preventDefault();
  $("composer").requestSubmit();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !composing(event)) stop();
  if (event.key === "/" && !event.ctrlKey && !event.metaKey && !event.target.closest("input, textarea, select")) {
    event.preventDefault();
    $("question").focus();
  }
});

const mayRefresh = () => !document.hidden && $("access").hidden;
document.addEventListener("visibilitychange", () => mayRefresh() && refresh());
setInterval(() => mayRefresh() && refresh(), REFRESH);

columns = [new Column("")];
$("unlock").hidden = !key;
$("settings").open = matchMedia("(min-width: 56.01rem)").matches;
speak(language);
busy(false);
refresh();
$("question").focus();
