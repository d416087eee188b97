// A question with its answer, and a column of them with one model. All that comes from a model, a name or an error
// is put in as text; the page's policy forbids to make HTML of it.

class Turn {
  text = "";

  constructor(question) {
    this.question = question;
    this.node = $("turn").content.firstElementChild.cloneNode(true);
    this.node.querySelector(".asked").textContent = question;
    this.shown = this.node.querySelector(".answer").appendChild(new Text());
  }

  /** Whether later questions are asked with this one before them. */
  get counts() {
    return this.text !== "" || Boolean(this.finish);
  }

  copy() {
    const { node, shown, ...known } = this;
    const copy = Object.assign(new Turn(this.question), known);
    copy.shown.data = this.text;
    copy.tell();
    return copy;
  }

  async run(body, signal) {
    const began = performance.now();
    this.node.ariaBusy = "true"; // read aloud when it is whole
    try {
      for await (const chunk of chunks(body, signal)) this.take(chunk, performance.now() - began);
    } catch (error) {
      if (signal.aborted) this.stopped = performance.now() - began;
      else this.error = error.message;
    }
    this.node.ariaBusy = "false";
    this.tell();
  }

  take({ model, choices: [choice], usage }, now) {
    this.model = model;
    this.tokens = usage?.completion_tokens;
    if (!choice) return;
    this.first ??= now;
    this.last = now;
    this.finish = choice.finish_reason;
    this.text += choice.delta.content ?? "";
    this.shown.appendData(choice.delta.content ?? "");
  }

  /** Under the answer: who gave it, how fast, how it ended. */
  tell() {
    const words = WORDS[language];
    const said = this.model ? [this.model] : [];
    if (this.tokens) said.push(words.tokens(this.tokens));
    const seconds = (this.last - this.first) / 1000; // of all tokens but the first
    if (seconds > 0 && this.tokens > 1) said.push(words.rate(Math.round((this.tokens - 1) / seconds)));
    if (this.first !== undefined) said.push(words.first(Math.round(this.first)));
    if (this.finish === "length") said.push(words.length);
    if (this.stopped) said.push(words.stopped((this.stopped / 1000).toFixed(1)));
    this.node.querySelector(".told").textContent = said.join(" · ");
    const failed = this.node.querySelector(".error");
    failed.textContent = this.error ?? "";
    failed.hidden = !this.error;
  }
}

class Column {
  turns = [];

  constructor(model) {
    this.node = $("column").content.firstElementChild.cloneNode(true);
    this.picker = this.node.querySelector("select");
    this.log = this.node.querySelector(".log");
    this.offer(model);
    this.picker.addEventListener("change", () => this.offer(this.picker.value));
    this.node.querySelector(".remove").addEventListener("click", () => remove(this));
    $("columns").append(this.node);
    translate(this.node);
  }

  /** The models to pick from, `chosen` picked; it stays on the list when it is served no longer. */
  offer(chosen) {
    const words = WORDS[language];
    const label = ({ id, parent }) => (parent === null ? `${id} (${words.base})` : id);
    const options = models.map((model) => new Option(label(model), model.id));
    if (chosen && !models.some(({ id }) => id === chosen)) {
      options.push(new Option(`${chosen} (${words.gone})`, chosen));
    }
    this.picker.replaceChildren(...options);
    this.picker.value = chosen;
    this.node.ariaLabel = chosen;
    const version = models.find(({ id }) => id === chosen)?.root.split("@")[1];
    this.node.querySelector(".version").textContent = version ? `@${version}` : ""; // changes when the adapter is swapped
  }

  async ask(question) {
    const before = this.turns.filter((turn) => turn.counts);
    const messages = before.flatMap((turn) => [
      { role: "user", content: turn.question },
      { role: "assistant", content: turn.text },
    ]);
    messages.push({ role: "user", content: question });
    const { system, ...sampling } = settings();
    if (system) messages.unshift({ role: "system", content: system });
    const streamed = { stream: true, stream_options: { include_usage: true } };
    const turn = this.add(new Turn(question));
    this.stopper = new AbortController();
    const unfollow = this.follow();
    await turn.run({ model: this.picker.value, messages, ...sampling, ...streamed }, this.stopper.signal);
    unfollow();
  }

  /** Keep the end in sight while the answer grows, unless the reader has scrolled away. */
  follow() {
    const { log } = this;
    let last = (log.scrollTop = log.scrollHeight);
    const scroll = () => {
      if (log.scrollTop + log.clientHeight > last - 40) log.scrollTop = log.scrollHeight;
      last = log.scrollHeight;
    };
    const watcher = new MutationObserver(scroll);
    watcher.observe(log, { characterData: true, childList: true, subtree: true });
    return () => watcher.disconnect();
  }

  add(turn) {
    this.turns.push(turn);
    this.log.append(turn.node);
    return turn;
  }

  /** Take the last question back. */
  takeBack() {
    const turn = this.turns.pop();
    turn?.node.remove();
    return turn?.question;
  }

  clear() {
    this.stopper?.abort();
    while (this.turns.length) this.takeBack();
  }
}
