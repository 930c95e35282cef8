// A document of a few lines for page.js, and what is seen of it as JSON.
const made = {};
const element = (tag) => ({ tag, attributes: {}, children: [], heard: {}, hidden: true, clientWidth: 800,
  textContent: "", checked: true, value: 0,
  setAttribute(key, value) { this.attributes[key] = String(value); },
  append(...some) { this.children.push(...some); },
  replaceChildren() { this.children = []; }, remove() { this.gone = true; },
  getComputedTextLength() { return 6 * this.textContent.length; },
  addEventListener(event, act) { (this.heard[event] ||= []).push(act); } });
globalThis.document = { createElementNS: (_, tag) => element(tag),
  getElementById: (id) => made[id] ||= element(id) };
globalThis.window = { addEventListener() {} };
globalThis.Option = class { constructor(text, value, _, chosen) { Object.assign(this, { text, value, chosen }); } };
document.getElementById("points").textContent = process.argv[1];
SCRIPT
const svg = made.plot.children[0];
const marks = () => svg.children.filter((c) => c.heard.mouseenter);
const fire = (id, event) => made[id].heard[event].forEach((act) => act());
const seen = () => ({ marks: marks().length, labels: svg.children.filter((c) => c.tag === "text" && !c.gone
  && c.attributes["pointer-events"]).map((c) => c.textContent), bad: JSON.stringify(svg.children).match(/NaN|undefined/),
  line: svg.children.find((c) => c.tag === "polyline").attributes.points.split(" ").length });
const told = { start: seen(), shown: made.others.hidden === false };
marks().at(-1).heard.click[0]();
told.said = made.said.textContent;
made.all.checked = false; fire("all", "change"); told.few = seen();
made.published.checked = false; fire("published", "change"); told.own = seen();
const latency = made.across.children.findIndex((o) => o.text.startsWith("latency"));
if (latency >= 0) { made.across.value = latency; fire("across", "change"); told.latency = seen(); }
console.log(JSON.stringify(told));
