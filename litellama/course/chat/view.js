// The chat's page.  widget.py owns the state: this draws its traits, and sends what the reader does.
// Nothing here turns text into markup: elements are made one by one, and text is put in as text.

const ELEMENTS = new Set(
  "p ul ol li blockquote table thead tbody tr th td h4 h5 h6 hr pre code strong em s a br".split(" "),
);
const PROTOCOLS = new Set(["http:", "https:", "mailto:"]);
const COLOURS = {
  red: "#d92121", orange: "#f28c18", yellow: "#d9cc20", green: "#29a65b", blue: "#2b68d9",
  purple: "#8f3fb3",
};
const SHAPES = ["circle", "square", "triangle", "star", "cross"];
const PLACES = [
  "middle", "top left", "top", "top right", "left", "right", "bottom left", "bottom",
  "bottom right",
];
const DIALS = [
  ["temperature", "Temperature", 0, 2, 0.05, "0 takes the likeliest token"],
  ["top_p", "Top-p", 0.01, 1, 0.01, "1 keeps all tokens"],
  ["top_k", "Top-k", 0, 200, 1, "0 keeps all tokens"],
  ["min_p", "Min-p", 0, 1, 0.01, "0 keeps all tokens"],
  ["max_tokens", "Most tokens", 1, 1024, 1, "of one answer"],
];
const SILENT = 6000; // milliseconds without an answer of the kernel before that is said
let count = 0; // so that the ids of two chats on one page differ

// An element with attributes, listeners ("onclick") and children; undefined and false are left out.
function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== undefined && child !== false));
  return element;
}

// What markdown.py made of a text, as elements.
function build(node) {
  if (typeof node === "string") return document.createTextNode(node);
  if (!ELEMENTS.has(node.tag)) return document.createTextNode("");
  const element = document.createElement(node.tag);
  if (node.tag === "a" && isWebLink(node.href)) {
    element.href = node.href;
    element.target = "_blank";
    element.rel = "noopener noreferrer nofollow";
  }
  if (node.tag === "ol" && Number.isInteger(node.start)) element.start = node.start;
  if (node.tag === "pre") element.tabIndex = 0; // it scrolls, also by keyboard
  element.append(...(node.children ?? []).map(build));
  return element;
}

function isWebLink(href) {
  try {
    return PROTOCOLS.has(new URL(href).protocol);
  } catch {
    return false;
  }
}

const number = (value, digits = 1) => (value === null || value === undefined ? "–" : value.toFixed(digits));
const percent = (value) => `${(100 * value).toFixed(value && value < 0.01 ? 2 : 1)} %`;
// A token as a reader can see it: spaces and line ends have no ink of their own.
const visible = (text) => text.replaceAll(" ", "␣").replaceAll("\n", "↵").replaceAll("\t", "⇥") || "∅";

// Messages to the kernel, each of which is answered; ``silent`` is told when they are not.
class Line {
  constructor(model, silent) {
    this.model = model;
    this.silent = silent;
    this.waiting = new Map();
    this.prefix = Math.random().toString(36).slice(2);
    this.sent = 0;
    this.receive = (content) => {
      if (!content.re?.startsWith?.(this.prefix)) return;
      const waiting = this.waiting.get(content.re);
      this.waiting.delete(content.re);
      clearTimeout(waiting?.timer);
      this.silent(false);
      waiting?.resolve(content);
    };
    model.on("msg:custom", this.receive);
  }
  // The kernel's answer: {error, ...}.
  send(what, content = {}, buffers = [], patient = false) {
    const n = `${this.prefix}-${(this.sent += 1)}`;
    return new Promise((resolve) => {
      const timer = patient ? 0 : setTimeout(() => this.silent(true), SILENT);
      this.waiting.set(n, { resolve, timer });
      try {
        this.model.send({ do: what, n, ...content }, undefined, buffers);
      } catch {
        this.silent(true);
      }
      if (patient) this.send("ping");
    });
  }
  close() {
    this.model.off("msg:custom", this.receive);
    for (const { timer } of this.waiting.values()) clearTimeout(timer);
  }
}

class Page {
  constructor(model, root) {
    this.model = model;
    this.root = root;
    this.id = `llc${(count += 1)}-${Math.random().toString(36).slice(2, 7)}`;
    this.drawn = []; // {key, element} of each exchange
    this.editing = false;
    this.status = h("div", { role: "status", class: "llc-hidden" });
    this.alert = h("div", { role: "alert", class: "llc-alert" });
    this.lost = h("div", { role: "alert", class: "llc-alert" });
    this.line = new Line(model, (is) => this.sayLost(is));
    this.log = h("div", { class: "llc-log", role: "region", "aria-label": "Conversation", tabindex: 0 });
    this.live = h("div");
    this.title = h("div", { class: "llc-title" });
    this.inside = h("div", { class: "llc-inside", role: "group", "aria-label": "Inside the engine" });
    this.root.append(
      this.title, this.log, this.status, this.alert, this.lost, this.composer(), this.inside,
      this.settings(),
    );
    this.log.append(this.live);
    this.root.addEventListener("keydown", (event) => this.onKey(event));
    const draws = {
      "change:exchanges": () => this.drawExchanges(), "change:live": () => this.drawLive(),
      "change:about": () => this.drawAbout(), "change:settings": () => this.drawSettings(),
      "change:system": () => this.drawSettings(), "change:pictures": () => this.drawPictures(),
      "msg:custom": (content) => content.notice && this.say(content.notice),
    };
    this.listeners = Object.entries(draws);
    for (const [event, listener] of this.listeners) model.on(event, listener);
    for (const draw of Object.values(draws).slice(0, 6)) draw();
    // An answer that comes without a sign of life, and a page that was opened again.
    this.pulse = setInterval(() => this.model.get("live") && this.line.send("ping"), 3000);
  }
  close() {
    clearInterval(this.pulse);
    for (const [event, listener] of this.listeners) this.model.off(event, listener);
    this.line.close();
  }

  // --- said ----------------------------------------------------------------------------------------

  say(error) {
    this.alert.textContent = error ?? "";
  }
  sayLost(is) {
    const text = is
      ? "The kernel does not answer. It is busy with another cell, or it has stopped. If this stays, " +
        "reload the page, or run the cell of this chat again. What was said stays readable here."
      : "";
    if (this.lost.textContent !== text) this.lost.textContent = text;
  }
  // Send, and show what the kernel has against it; true if nothing.
  async tell(what, content, buffers, patient) {
    const reply = await this.line.send(what, content, buffers, patient);
    this.say(reply.error);
    return reply.error ? null : reply;
  }

  // --- the conversation ----------------------------------------------------------------------------

  drawExchanges() {
    const views = this.model.get("exchanges");
    views.forEach((view, i) => {
      const key = JSON.stringify(view);
      if (this.drawn[i]?.key === key) return;
      const element = this.exchange(view, i);
      if (this.drawn[i]) this.drawn[i].element.replaceWith(element);
      else this.log.insertBefore(element, this.live);
      this.drawn[i] = { key, element };
    });
    for (const { element } of this.drawn.splice(views.length)) element.remove();
    this.announceEnd(views.at(-1));
    this.drawInside();
    this.scroll();
  }
  // A reader who listens hears an answer once, when it is there.
  announceEnd(last) {
    if (!this.wasLive || this.model.get("live") || !last) return;
    this.wasLive = false;
    this.status.textContent = `The answer${last.note ? `, ${last.note}` : ""}: ${last.text}`;
  }
  drawLive() {
    const view = this.model.get("live");
    this.root.classList.toggle("llc-busy", Boolean(view));
    this.stop.setAttribute("aria-disabled", String(!view));
    if (view && !this.wasLive) this.status.textContent = "The answer is coming.";
    if (view) this.wasLive = true;
    this.live.replaceChildren(...(view ? [this.exchange(view, -1)] : []));
    if (!view) this.announceEnd(this.model.get("exchanges").at(-1));
    this.drawInside();
    this.scroll();
  }
  scroll() {
    this.log.scrollTop = this.log.scrollHeight;
  }
  exchange(view, index) {
    const pictures = view.pictures.map((url, i) =>
      h("img", { src: url, alt: `Picture ${i + 1} of this message`, class: "llc-picture" }));
    const asked = h("div", { class: "llc-you" }, h("div", { class: "llc-who" }, "You"),
      ...pictures, h("div", { class: "llc-text" }, view.question));
    const text = h("div", { class: "llc-text llc-markdown" });
    text.append(...view.nodes.map(build));
    if (index < 0 && !view.text) text.append(h("p", { class: "llc-soft" }, "reading the prompt …"));
    const said = h("div", { class: "llc-model" }, h("div", { class: "llc-who" }, "Model"), text,
      view.note && h("p", { class: "llc-soft" }, view.note),
      view.tokens.length > 0 && this.tokens(view, index));
    return h("div", { class: "llc-exchange" }, asked, said);
  }

  // The tokens of an answer: one tab stop, arrow keys between them, Enter opens.
  tokens(view, index) {
    const result = h("div", { class: "llc-candidates", tabindex: -1 });
    const buttons = view.tokens.map((token, i) =>
      h("button", {
        type: "button", class: "llc-token", tabindex: i ? -1 : 0,
        "aria-label": `token ${i + 1}: ${visible(token)}`,
        onclick: () => this.inspect(index, i, buttons, result),
      }, visible(token)));
    const move = (event) => {
      const at = buttons.indexOf(document.activeElement);
      const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: buttons.length - 1 }[event.key];
      if (at < 0 || to === undefined || !buttons[to]) return;
      event.preventDefault();
      event.stopPropagation();
      this.focusToken(buttons, to);
    };
    const list = h("div", {
      class: "llc-tokens", role: "group", onkeydown: move,
      "aria-label": "Tokens of the answer: the arrow keys move, Enter shows what else it could be",
    }, ...buttons);
    return h("details", {},
      h("summary", {}, `Its ${view.tokens.length} tokens: what else could it have said?`), list, result);
  }
  focusToken(buttons, to) {
    for (const [i, button] of buttons.entries()) button.tabIndex = i === to ? 0 : -1;
    buttons[to].focus();
  }
  async inspect(exchange, token, buttons, result) {
    this.focusToken(buttons, token);
    for (const [i, button] of buttons.entries()) button.classList.toggle("llc-lit", i === token);
    result.textContent = "looking …";
    const reply = await this.tell("inspect", { exchange, token }, [], true);
    result.replaceChildren(...(reply ? [this.candidates(reply.inspection)] : []));
    if (!reply) return;
    result.onkeydown = (event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation();
      buttons[token].focus();
    };
    result.focus();
  }
  candidates(found) {
    const cut = found.rows.findIndex((row) => row.chance === 0);
    const body = [];
    found.rows.forEach((row, i) => {
      if (i === cut) {
        body.push(h("tr", {}, h("td", { colspan: 4, class: "llc-cut" },
          `cut here: ${found.kept} of ${found.total} can be drawn`)));
      }
      const bar = h("div", { class: "llc-bar", "aria-hidden": "true" });
      bar.style.width = `${Math.max(100 * row.probability, 0.5)}%`;
      body.push(h("tr", { class: row.drawn ? "llc-drawn" : row.chance ? "" : "llc-dropped" },
        h("th", { scope: "row" }, visible(row.text), row.drawn && " (drawn)"),
        h("td", {}, percent(row.probability)), h("td", {}, row.chance ? percent(row.chance) : "cut"),
        h("td", { class: "llc-bars", "aria-hidden": "true" }, bar)));
    });
    const place = found.rank ? `number ${found.rank + 1} in the model's order` : "the model's first choice";
    const rest = cut < 0 ? ` ${found.kept} of ${found.total} can be drawn.` : "";
    return h("table", {},
      h("caption", {}, `Token ${found.token + 1}, ${visible(found.text)}, was ${place}. With ` +
        `${found.dials}.${rest} Escape leads back to the token.`),
      h("thead", {}, h("tr", {}, ...["token", "probability", "chance to be drawn"].map((name) =>
        h("th", { scope: "col" }, name)), h("td", { "aria-hidden": "true" }))),
      h("tbody", {}, ...body));
  }

  // --- what is measured ----------------------------------------------------------------------------

  drawInside() {
    const view = this.model.get("live") ?? this.model.get("exchanges").at(-1);
    const s = view?.stats ?? {};
    if (!s.fills) return this.inside.replaceChildren();
    const facts = [
      ["tokens/s", number(s.rate)], ["first token", s.first === null ? "–" : `${number(s.first, 2)} s`],
      ["tokens", `${s.tokens}`], ["prompt found in the cache", `${s.cached} of ${s.prompt} tokens`],
      ["seed", s.seed],
    ];
    const list = h("ul", { class: "llc-facts" }, ...facts.map(([name, value]) =>
      h("li", {}, h("span", {}, `${name} `), h("strong", {}, value))));
    this.inside.replaceChildren(list, ...(s.fills.length ? this.blocks(s) : []));
    return undefined;
  }
  // The conversation's blocks of the KV cache, filling up; the colours are those of lesson 10.
  blocks(s) {
    const colours = this.model.get("palette");
    const kinds = [["from the cache", colours.green], ["prompt", colours.sky], ["answer", colours.orange]];
    const sums = kinds.map((_, kind) => s.fills.reduce((sum, fill) => sum + fill[kind], 0));
    const cells = s.fills.map((fill) => h("div", { class: "llc-cell" }, ...fill.map((tokens, kind) => {
      const part = h("div");
      part.style.width = `${(100 * tokens) / s.block_size}%`;
      part.style.background = kinds[kind][1];
      return part;
    })));
    const words = `KV cache of this conversation: ${s.fills.length} blocks of ${s.block_size} tokens`;
    const shares = kinds.map(([name], kind) => `${sums[kind]} ${name}`).join(", ");
    const pool = this.model.get("live")
      ? `in use: ${s.used} of the engine's ${s.pool} blocks, by ${s.running} answer${s.running > 1 ? "s" : ""}`
      : "given back; what is in them stays until the memory is needed, and the next message finds it";
    const legend = kinds.map(([name, colour], kind) => {
      const swatch = h("span", { class: "llc-swatch" });
      swatch.style.background = colour;
      return h("span", {}, swatch, `${sums[kind]} ${name}`);
    });
    return [
      h("div", {}, words),
      h("div", { class: "llc-cells", role: "img", "aria-label": `${words}: ${shares}.` }, ...cells),
      h("div", { class: "llc-legend" }, ...legend, h("span", { class: "llc-soft" }, pool)),
    ];
  }

  // --- where the reader writes ---------------------------------------------------------------------

  composer() {
    const button = (words, onclick, more = {}) => h("button", { type: "button", onclick, ...more }, words);
    this.text = h("textarea", { id: `${this.id}-text`, rows: 2, "aria-describedby": `${this.id}-how` });
    this.stop = button("Stop", () => this.model.get("live") && this.tell("stop"), { "aria-disabled": "true" });
    this.sendButton = button("Send", () => this.send(), { class: "llc-first" });
    this.cancel = button("Cancel edit", () => this.edit(false), { hidden: true });
    this.file = h("input", {
      type: "file", class: "llc-hidden", tabindex: -1, "aria-label": "A picture",
      accept: "image/png,image/jpeg,image/webp,image/gif,image/bmp", onchange: () => this.upload(),
    });
    this.conversation = h("input", {
      type: "file", class: "llc-hidden", tabindex: -1, "aria-label": "A conversation file",
      accept: ".json,application/json", onchange: () => this.load(),
    });
    this.shown = h("div", { class: "llc-shown" });
    this.canvas = this.drawing();
    this.forPictures = h("span", { class: "llc-row" }, button("Add a picture", () => this.file.click()),
      button("Draw", () => this.toggleDrawing(), { "aria-expanded": "false" }));
    return h("div", { class: "llc-composer" },
      h("label", { for: `${this.id}-text` }, "Your message"), this.text,
      h("div", { id: `${this.id}-how`, class: "llc-soft" },
        "Enter sends, Shift+Enter starts a line, Escape stops the answer."),
      this.shown,
      h("div", { class: "llc-row" }, this.sendButton, this.cancel, this.stop,
        button("Regenerate", () => this.tell("regenerate")), button("Edit last", () => this.edit(true)),
        button("Clear", () => this.tell("clear")), this.forPictures,
        button("Save", () => this.save()), button("Load", () => this.conversation.click())),
      this.canvas, this.file, this.conversation);
  }
  onKey(event) {
    if (event.target === this.text && event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      this.send();
    } else if (event.key === "Escape" && this.model.get("live")) {
      this.tell("stop");
    } else if (event.key === "Escape" && this.editing) {
      this.edit(false);
    }
    event.stopPropagation(); // the notebook has keys of its own
  }
  async send() {
    const text = this.text.value;
    const done = await this.tell("send", { text, edit: this.editing });
    if (done && this.text.value === text) {
      this.text.value = "";
      this.edit(false);
    }
  }
  edit(on) {
    const last = this.model.get("exchanges").at(-1);
    if (on && !last) return this.say("There is no message to edit yet.");
    if (on) this.text.value = last.question;
    else if (this.editing) this.text.value = "";
    this.editing = on;
    this.sendButton.textContent = on ? "Send instead of the last" : "Send";
    this.cancel.hidden = !on;
    this.text.focus();
    return undefined;
  }
  async save() {
    const reply = await this.tell("save");
    if (!reply) return;
    const url = URL.createObjectURL(new Blob([reply.file], { type: "application/json" }));
    h("a", { href: url, download: "conversation.json" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  }
  // A file that was chosen, or nothing when it is too large to be sent.
  chosen(input) {
    const [file] = input.files;
    const most = this.model.get("max_file");
    if (file && file.size > most) this.say(`${file.name} has ${file.size} bytes, and ${most} are the most.`);
    return file && file.size <= most ? file : null;
  }
  async load() {
    const file = this.chosen(this.conversation);
    if (file) await this.tell("load", { text: await file.text(), name: file.name });
    this.conversation.value = "";
  }
  async upload() {
    const file = this.chosen(this.file);
    if (file) await this.tell("picture", {}, [await file.arrayBuffer()]);
    this.file.value = "";
  }
  drawPictures() {
    const urls = this.model.get("pictures");
    this.shown.replaceChildren(...urls.map((url, i) =>
      h("img", { src: url, alt: `Picture ${i + 1} that goes with the next message`, class: "llc-picture" })));
    if (!urls.length) return;
    this.shown.append(h("button", { type: "button", onclick: () => this.tell("no pictures") },
      urls.length > 1 ? "Remove the pictures" : "Remove the picture"));
  }

  // --- a picture drawn here ------------------------------------------------------------------------

  drawing() {
    this.paper = h("canvas", { width: 288, height: 288, class: "llc-paper", role: "img",
      "aria-label": "The drawing. Draw with the mouse, or add shapes with the controls beside it." });
    const choice = (name, options) => {
      const id = `${this.id}-${name}`;
      const select = h("select", { id }, ...options.map((option) => h("option", {}, option)));
      return [select, h("div", {}, h("label", { for: id }, name), select)];
    };
    const [colour, colours] = choice("Colour", Object.keys(COLOURS));
    const [shape, shapes] = choice("Shape", SHAPES);
    const [size, sizes] = choice("Size", ["large", "small"]);
    const [place, places] = choice("Place", PLACES);
    const ink = () => COLOURS[colour.value];
    const add = () => addShape(this.paper, shape.value, ink(), size.value, place.value);
    const pen = (event) => event.buttons && line(this.paper, event, ink());
    this.paper.addEventListener("pointerdown", (event) => line(this.paper, event, ink()));
    this.paper.addEventListener("pointermove", pen);
    const use = () => this.paper.toBlob(async (blob) => {
      const sent = await this.tell("picture", {}, [await blob.arrayBuffer()]);
      if (sent) this.toggleDrawing();
    });
    erase(this.paper);
    return h("div", { class: "llc-drawing", hidden: true }, this.paper,
      h("div", { class: "llc-controls" }, colours, shapes, sizes, places,
        h("button", { type: "button", onclick: add }, "Add the shape"),
        h("button", { type: "button", onclick: () => erase(this.paper) }, "Erase"),
        h("button", { type: "button", class: "llc-first", onclick: use }, "Use this drawing")));
  }
  toggleDrawing() {
    this.canvas.hidden = !this.canvas.hidden;
    const button = this.forPictures.lastChild;
    button.setAttribute("aria-expanded", String(!this.canvas.hidden));
    if (this.canvas.hidden) this.text.focus();
    else this.canvas.querySelector("select").focus();
  }

  // --- the settings --------------------------------------------------------------------------------

  settings() {
    const label = (name, words) => h("label", { for: `${this.id}-${name}` }, words);
    this.dials = {};
    const rows = DIALS.map(([name, words, min, max, step, hint]) => {
      const value = h("output", { for: `${this.id}-${name}` });
      const input = h("input", {
        type: "range", id: `${this.id}-${name}`, min, max, step, title: hint,
        oninput: () => { value.textContent = input.value; },
        onchange: () => this.tell("settings", { values: { [name]: Number(input.value) } }),
      });
      this.dials[name] = [input, value];
      return h("div", { class: "llc-dial" }, label(name, words), input, value, h("span", { class: "llc-soft" }, hint));
    });
    this.seed = h("input", { id: `${this.id}-seed`, inputmode: "numeric", size: 12,
      onchange: () => this.tell("settings", { values: { seed: this.seed.value } }) });
    this.system = h("textarea", { id: `${this.id}-system`, rows: 2,
      onchange: () => this.tell("system", { text: this.system.value }) });
    this.names = h("datalist", { id: `${this.id}-names` });
    this.name = h("input", { id: `${this.id}-model`, list: `${this.id}-names`, size: 30 });
    const loadModel = () => this.tell("model", { name: this.name.value }, [], true);
    return h("details", { class: "llc-settings" }, h("summary", {}, "Settings"),
      h("div", { class: "llc-row" }, label("model", "Model: a name, a folder, or a .gguf file"), this.name,
        this.names, h("button", { type: "button", onclick: loadModel }, "Load the model")),
      label("system", "System prompt, from the next message on"), this.system, ...rows,
      h("div", { class: "llc-dial" }, label("seed", "Seed"), this.seed,
        h("span", { class: "llc-soft" }, "empty: another one each time")));
  }
  drawSettings() {
    const settings = this.model.get("settings");
    for (const [name, [input, value]] of Object.entries(this.dials)) {
      if (settings[name] === undefined) continue;
      input.max = Math.max(input.max, settings[name]);
      input.value = settings[name];
      value.textContent = settings[name];
    }
    if (document.activeElement !== this.seed) this.seed.value = settings.seed ?? "";
    if (document.activeElement !== this.system) this.system.value = this.model.get("system");
  }
  drawAbout() {
    const about = this.model.get("about");
    const what = about.name ? [
      about.name, `${about.device} ${about.dtype}`, `context ${about.context} tokens`,
      about.pictures ? "reads text and pictures" : "reads text only",
    ] : ["no model yet"];
    if (about.loading) what.push(`loading ${about.loading} …`);
    this.title.textContent = what.join(" · ");
    this.root.setAttribute("aria-label", `Chat with ${about.name || "a model"}`);
    this.names.replaceChildren(...(about.names ?? []).map((name) => h("option", { value: name })));
    if (document.activeElement !== this.name) this.name.value = about.loading || about.name || "";
    this.forPictures.hidden = !about.pictures;
    if (!about.pictures) this.canvas.hidden = true;
  }
}

// --- on the paper ------------------------------------------------------------------------------------

function erase(paper) {
  const pen = paper.getContext("2d");
  pen.fillStyle = "#ffffff";
  pen.fillRect(0, 0, paper.width, paper.height);
}

function line(paper, event, colour) {
  const pen = paper.getContext("2d");
  const scale = paper.width / paper.clientWidth;
  const [x, y] = [event.offsetX * scale, event.offsetY * scale];
  const from = event.type === "pointerdown" ? [x, y] : paper.last ?? [x, y];
  pen.strokeStyle = colour;
  pen.lineWidth = 12;
  pen.lineCap = "round";
  pen.beginPath();
  pen.moveTo(...from);
  pen.lineTo(x, y);
  pen.stroke();
  paper.last = [x, y];
}

function addShape(paper, shape, colour, size, place) {
  const pen = paper.getContext("2d");
  const third = paper.width / 3;
  const column = place.includes("left") ? 0 : place.includes("right") ? 2 : 1;
  const row = place.includes("top") ? 0 : place.includes("bottom") ? 2 : 1;
  const r = (size === "large" ? 14 : 8) * (paper.width / 96);
  pen.save();
  pen.translate((column + 0.5) * third, (row + 0.5) * third);
  pen.fillStyle = colour;
  pen.beginPath();
  if (shape === "circle") pen.arc(0, 0, r, 0, 2 * Math.PI);
  else if (shape === "square") pen.rect(-0.8 * r, -0.8 * r, 1.6 * r, 1.6 * r);
  else if (shape === "cross") {
    pen.rect(-r, -r / 3, 2 * r, (2 * r) / 3);
    pen.rect(-r / 3, -r, (2 * r) / 3, 2 * r);
  } else {
    const corners = shape === "star" ? 10 : 3;
    for (let i = 0; i < corners; i += 1) {
      const radius = shape === "star" && i % 2 ? 0.45 * r : r;
      const angle = (2 * Math.PI * i) / corners - Math.PI / 2;
      pen.lineTo(radius * Math.cos(angle), radius * Math.sin(angle));
    }
  }
  pen.fill();
  pen.restore();
}

export default {
  render({ model, el }) {
    const root = h("section", { class: "llc" });
    el.append(root);
    const page = new Page(model, root);
    return () => page.close();
  },
};
