// The page of `seg-kernel serve`: sends an image to one or two models, and draws their label maps over it.

const find = (selector, inside = document) => inside.querySelector(selector);
const [fileInput, cameraButton, first, second] = ["#file", "#camera", "#first", "#second"].map((id) => find(id));
const [other, pairInput] = ["#other", "#pair"].map((id) => find(id));
const [opacity, status, error, view] = ["#opacity", "#status", "#error", "#view"].map((id) => find(id));

const FEW_CLASSES = 12; // with more in an image, the legend has a search field

const state = {
  models: new Map(), // by name: {classes: [{id, name, color}], images: 1, or 2 for a model that compares two}
  image: null, // {blob, name, bitmap}, or null before the first
  pair: null, // the file to compare it with, or null
  isolated: null, // name of the class that is shown alone
  request: null, // AbortController of the requests that are under way
  panels: [],
};

// ---------------------------------------------------------------- requests

async function predict() {
  const wanted = [first.value, second.value].filter((name, index, all) => name && all.indexOf(name) === index);
  const comparing = wanted.find((name) => state.models.get(name).images === 2);
  other.hidden = !comparing;
  if (!state.image || !wanted.length) return;
  state.request?.abort();
  if (comparing && !state.pair) {
    say([`${comparing} compares two images of one place: choose the second one, too.`]);
    return;
  }
  const request = (state.request = new AbortController());
  state.panels.forEach((panel) => panel.busy(true));
  const { image } = state;
  const start = performance.now();
  try {
    const answers = await Promise.all(wanted.map((name) => labelsOf(name, image.blob, request.signal)));
    const milliseconds = Math.round(performance.now() - start);
    showPanels(wanted);
    answers.forEach((labels, index) => state.panels[index].show(image, labels));
    fail("");
    describe(image, answers[0], milliseconds);
  } catch (problem) {
    if (problem.name !== "AbortError") fail(problem.message);
  } finally {
    if (state.request === request) state.panels.forEach((panel) => panel.busy(false));
  }
}

async function labelsOf(model, blob, signal) {
  const address = `models/${encodeURIComponent(model)}/predict?format=png`;
  let answer;
  try {
    answer = await fetch(address, { method: "POST", body: bodyOf(model, blob), signal });
  } catch (problem) {
    if (problem.name === "AbortError") throw problem;
    throw new Error("The server does not answer. Is it still running?");
  }
  if (!answer.ok) throw new Error(await messageOf(answer));
  return decodeLabels(await answer.blob());
}

function bodyOf(model, blob) {
  if (state.models.get(model).images === 1) return blob;
  const form = new FormData();
  form.append("image", blob);
  form.append("second", state.pair);
  return form;
}

async function messageOf(answer) {
  try {
    return (await answer.json()).error.message;
  } catch {
    return `The server answered with status ${answer.status}.`;
  }
}

// A canvas would give colours, which some browsers change; the ids are the values in the file.
async function decodeLabels(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  const numbers = new DataView(bytes.buffer);
  const [width, height] = [numbers.getUint32(16), numbers.getUint32(20)];
  const parts = [];
  let objects = null;
  for (let at = 8; at < bytes.length; at += 12 + numbers.getUint32(at)) {
    const name = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    const content = bytes.subarray(at + 8, at + 8 + numbers.getUint32(at));
    if (name === "IDAT") parts.push(content);
    if (name === "tEXt") objects = JSON.parse(new TextDecoder().decode(content.subarray("objects".length + 1)));
  }
  const stream = new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate"));
  const rows = new Uint8Array(await new Response(stream).arrayBuffer());
  const ids = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    ids.set(rows.subarray(y * (width + 1) + 1, (y + 1) * (width + 1)), y * width); // without the filter of the row
  }
  return { blob, width, height, ids, objects };
}

// ---------------------------------------------------------------- messages

function describe(image, { width, height }, milliseconds) {
  const name = other.hidden ? image.name : `${image.name} and ${state.pair.name}`;
  const parts = [`${name}, ${width} × ${height} pixels, labelled in ${milliseconds} ms.`];
  const [left, right] = state.panels;
  if (right) parts.push(`The models agree on ${percent(agreement(left, right))} of the pixels.`);
  if (!image.bitmap) parts.push("This browser cannot show the image itself.");
  say(parts);
}

function say(parts) {
  status.textContent = parts.join(" ");
}

function fail(message) {
  error.textContent = message;
  if (message) status.textContent = "";
}

function agreement(one, other) {
  const names = (panel) => panel.classes.map(({ name }) => name);
  const [mine, theirs] = [names(one), names(other)];
  let same = 0;
  one.labels.ids.forEach((id, index) => (same += mine[id] === theirs[other.labels.ids[index]]));
  return same / one.labels.ids.length;
}

function percent(share) {
  return share > 0 && share < 0.001 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`;
}

// ---------------------------------------------------------------- panels

function showPanels(names) {
  find("#empty").hidden = true;
  if (names.join("\n") !== state.panels.map((panel) => panel.model).join("\n")) {
    state.panels = names.map((name) => new Panel(name));
    find("#panels").replaceChildren(...state.panels.map((panel) => panel.element));
  }
}

class Panel {
  constructor(model) {
    this.model = model;
    Object.assign(this, state.models.get(model)); // classes; of objects also their skeleton and the least score shown
    this.element = find("#panel").content.cloneNode(true).firstElementChild;
    [this.base, this.overlay] = [find(".image", this.element), find(".overlay", this.element)];
    this.mark = find(".mark", this.element);
    const heading = find("h2", this.element);
    heading.textContent = model;
    this.element.setAttribute("aria-label", model);
    this.overlay.style.opacity = opacity.value / 100;
    this.overlay.addEventListener("pointermove", (event) => point(this.pixelAt(event), this));
    this.overlay.addEventListener("pointerleave", () => point(null));
    this.overlay.addEventListener("click", (event) => isolate(this.nameAt(this.pixelAt(event))));
    this.overlay.addEventListener("keydown", (event) => this.moveByKey(event));
    this.overlay.addEventListener("focus", () => (find(".point", this.element).ariaLive = "polite"));
    this.overlay.addEventListener("blur", () => {
      find(".point", this.element).ariaLive = "off";
      point(null);
    });
    this.search = find(".search", this.element);
    this.search.addEventListener("input", () => this.filter());
    find(".labels", this.element).addEventListener("click", () => this.download(this.labels.blob, "labels"));
    find(".composite", this.element).addEventListener("click", () => this.downloadOverlay());
  }

  busy(yes) {
    this.element.setAttribute("aria-busy", yes);
    this.element.querySelectorAll(".controls button").forEach((button) => (button.disabled = yes));
  }

  show(image, labels) {
    Object.assign(this, { image, labels });
    const { width, height, ids } = labels;
    for (const canvas of [this.base, this.overlay]) Object.assign(canvas, { width, height });
    find(".stack", this.element).style.setProperty("--ratio", width / height);
    if (image.bitmap) this.base.getContext("2d").drawImage(image.bitmap, 0, 0, width, height);
    this.objects = labels.objects?.filter(({ score }) => score >= this.shown_score).reverse(); // the best one on top
    this.counts = new Uint32Array(256);
    if (this.objects) this.objects.forEach(({ id }) => this.counts[id]++);
    else ids.forEach((id) => this.counts[id]++);
    this.paint();
    this.list();
  }

  // One class alone, or all.
  paint() {
    const { width, height, ids } = this.labels;
    const colors = new Uint32Array(256); // bytes red, green, blue, alpha; transparent where nothing is set
    const bytes = new Uint8Array(colors.buffer);
    for (const { id, name, color } of this.classes) {
      if (state.isolated === null || state.isolated === name) bytes.set([...color, 255], 4 * id);
    }
    const pixels = new ImageData(width, height);
    const words = new Uint32Array(pixels.data.buffer);
    ids.forEach((id, index) => (words[index] = colors[id]));
    const context = this.overlay.getContext("2d");
    context.putImageData(pixels, 0, 0);
    this.objects?.filter(({ name }) => [null, name].includes(state.isolated)).forEach((each) => this.draw(context, each));
  }

  // The box of an object, its name and score, and its keypoints.
  draw(context, { name, color, score, box, keypoints = [] }) {
    const [left, top, right, bottom] = box;
    const line = Math.max(2, Math.round(Math.max(this.labels.width, this.labels.height) / 300));
    const dark = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] < 140;
    const text = `${name} ${score.toFixed(2)}`;
    Object.assign(context, { lineWidth: line, font: `${7 * line}px sans-serif`, textBaseline: "top" });
    context.strokeStyle = context.fillStyle = `rgb(${color.join(",")})`;
    context.strokeRect(left, top, right - left, bottom - top);
    const place = [left - line / 2, Math.max(top - 8 * line, 0)];
    context.fillRect(...place, context.measureText(text).width + 2 * line, 8 * line);
    for (const pair of keypoints.length ? this.skeleton : []) {
      const [from, to] = pair.map((index) => keypoints[index]);
      if (!from || !to) continue;
      context.beginPath();
      context.moveTo(from[0], from[1]);
      context.lineTo(to[0], to[1]);
      context.stroke();
    }
    context.fillStyle = dark ? "white" : "black";
    context.fillText(text, place[0] + line, place[1] + line / 2);
    for (const [x, y] of keypoints) context.fillRect(x - line, y - line, 2 * line, 2 * line);
  }

  list() {
    const present = this.classes.filter(({ id }) => this.counts[id]).sort((a, b) => this.counts[b.id] - this.counts[a.id]);
    const buttons = present.map(({ id, name, color }) => {
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.name = name;
      button.ariaPressed = state.isolated === name;
      button.title = `Show ${name} only`;
      button.append(swatch(color), span("name", name), span("share", this.amount(id)));
      button.addEventListener("click", () => isolate(name));
      return button;
    });
    this.keepFocus(buttons);
    this.search.hidden = present.length <= FEW_CLASSES;
    this.filter();
    const missing = this.classes.length - present.length;
    find(".absent", this.element).textContent = missing ? `${missing} of ${this.classes.length} classes do not occur.` : "";
    const largest = present.slice(0, 3).map(({ id, name }) => `${name} ${this.amount(id)}`);
    find("h3", this.element).textContent = this.objects ? "Objects" : "Share of pixels";
    this.overlay.ariaLabel = `Labels of ${this.model}: ${largest.join(", ")}. Arrow keys move a pointer that names the class, Enter shows it alone.`;
  }

  // The number of objects of a class, or its share of the pixels.
  amount(id) {
    return this.objects ? `${this.counts[id]}` : percent(this.counts[id] / this.labels.ids.length);
  }

  // Only the classes of the legend whose name contains what is searched for.
  filter() {
    const wanted = this.search.hidden ? "" : this.search.value.trim().toLowerCase();
    this.element.querySelectorAll(".legend li").forEach((item) => {
      item.hidden = !item.firstChild.dataset.name.toLowerCase().includes(wanted);
    });
  }

  // With a camera, the legend is rebuilt many times per second.
  keepFocus(buttons) {
    const focused = document.activeElement?.dataset?.name;
    const inside = find(".legend", this.element).contains(document.activeElement);
    find(".legend", this.element).replaceChildren(
      ...buttons.map((button) => {
        const item = document.createElement("li");
        item.append(button);
        return item;
      }),
    );
    if (inside) buttons.find((button) => button.dataset.name === focused)?.focus();
  }

  pixelAt(event) {
    const box = this.overlay.getBoundingClientRect();
    const inside = (value, most) => Math.min(Math.max(Math.floor(value), 0), most - 1);
    return {
      x: inside(((event.clientX - box.left) / box.width) * this.overlay.width, this.overlay.width),
      y: inside(((event.clientY - box.top) / box.height) * this.overlay.height, this.overlay.height),
    };
  }

  nameAt({ x, y }) {
    return this.classes[this.labels.ids[y * this.labels.width + x]]?.name ?? "no object";
  }

  moveByKey(event) {
    const { width, height } = this.labels;
    const step = event.shiftKey ? 1 : Math.max(1, Math.round(width / 40));
    const { x, y } = this.point ?? { x: width >> 1, y: height >> 1 };
    const [right, down] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? [];
    if (right !== undefined) {
      const limited = (value, most) => Math.min(Math.max(value, 0), most - 1);
      point({ x: limited(x + right * step, width), y: limited(y + down * step, height) });
    } else if (event.key === "Enter" || event.key === " ") {
      isolate(this.nameAt({ x, y }));
    } else {
      return;
    }
    event.preventDefault();
  }

  showPoint(place, marked) {
    this.point = place;
    this.mark.hidden = !place;
    const name = place ? this.nameAt(place) : "";
    find(".point", this.element).textContent = place ? `${name} at (${place.x}, ${place.y})` : "";
    if (!place) return;
    const [across, down] = [(place.x + 0.5) / this.labels.width, (place.y + 0.5) / this.labels.height];
    find("span", this.mark).textContent = name;
    Object.assign(this.mark.style, { left: `${100 * across}%`, top: `${100 * down}%` });
    this.mark.classList.toggle("dot", marked);
    this.mark.classList.toggle("left", across > 0.7);
    this.mark.classList.toggle("up", down > 0.8);
  }

  downloadOverlay() {
    const canvas = document.createElement("canvas");
    Object.assign(canvas, { width: this.labels.width, height: this.labels.height });
    const context = canvas.getContext("2d");
    context.drawImage(this.base, 0, 0);
    context.globalAlpha = opacity.value / 100;
    context.drawImage(this.overlay, 0, 0);
    canvas.toBlob((blob) => this.download(blob, "overlay"));
  }

  download(blob, what) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `${this.image.name.replace(/\.\w+$/, "")}_${this.model}_${what}.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }
}

// A colour as an attribute, since the page allows no inline styles.
function swatch(color) {
  const image = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const square = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  const attributes = { width: "100%", height: "100%", fill: `rgb(${color.join(",")})` };
  Object.entries(attributes).forEach(([name, value]) => square.setAttribute(name, value));
  image.setAttribute("aria-hidden", "true");
  image.append(square);
  return image;
}

function span(name, text) {
  const element = document.createElement("span");
  element.className = name;
  element.textContent = text;
  return element;
}

function isolate(name) {
  state.isolated = state.isolated === name ? null : name;
  for (const panel of state.panels) {
    panel.paint();
    panel.element.querySelectorAll(".legend button").forEach((button) => {
      button.ariaPressed = button.dataset.name === state.isolated;
    });
  }
}

// In all panels at once; a dot marks it where no mouse pointer is.
function point(place, shown = null) {
  state.panels.forEach((panel) => panel.showPoint(place, panel !== shown));
}

// ---------------------------------------------------------------- images

async function open(blob, name) {
  let bitmap = null;
  try {
    bitmap = await createImageBitmap(blob);
  } catch {
    // A TIFF, or no image: the server says which.
  }
  state.image = { blob, bitmap, name };
  await predict();
}

function openFirst(files) {
  if (!files.length) return;
  stopCamera();
  state.isolated = null;
  state.pair = files[1] ?? null; // two files that are dropped together are a pair
  open(files[0], files[0].name || "pasted.png");
}

pairInput.addEventListener("change", () => {
  if (pairInput.files.length) state.pair = pairInput.files[0];
  pairInput.value = "";
  predict();
});

fileInput.addEventListener("change", () => {
  openFirst(fileInput.files);
  fileInput.value = ""; // so that the same file can be chosen again
});
document.addEventListener("paste", (event) => openFirst(event.clipboardData.files));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  view.classList.add("over");
});
document.addEventListener("dragleave", (event) => event.relatedTarget ?? view.classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  view.classList.remove("over");
  if (event.dataTransfer.files.length) openFirst(event.dataTransfer.files);
  else fail("Only files can be dropped: save the image first.");
});

// ---------------------------------------------------------------- camera

let camera = null;

async function startCamera() {
  if (!navigator.mediaDevices) {
    fail("Browsers allow the camera on localhost and over https only.");
    return;
  }
  try {
    camera = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 640 } } });
  } catch (problem) {
    fail(`The camera cannot be used: ${problem.message}`);
    return;
  }
  cameraButton.ariaPressed = true;
  const video = Object.assign(document.createElement("video"), { srcObject: camera, muted: true, playsInline: true });
  await video.play();
  const canvas = document.createElement("canvas");
  while (camera) {
    Object.assign(canvas, { width: video.videoWidth, height: video.videoHeight });
    canvas.getContext("2d").drawImage(video, 0, 0);
    const blob = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.92));
    if (!camera) break;
    await open(blob, "camera.jpg");
    if (error.textContent) stopCamera();
  }
}

function stopCamera() {
  camera?.getTracks().forEach((track) => track.stop());
  camera = null;
  cameraButton.ariaPressed = false;
}

cameraButton.addEventListener("click", () => (camera ? stopCamera() : startCamera()));

// ---------------------------------------------------------------- settings

opacity.addEventListener("input", () => {
  find("#percent").textContent = `${opacity.value} %`;
  state.panels.forEach((panel) => (panel.overlay.style.opacity = opacity.value / 100));
});
first.addEventListener("change", predict);
second.addEventListener("change", predict);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && state.isolated !== null) isolate(state.isolated);
});

try {
  const { models: all } = await (await fetch("models")).json();
  const models = all.filter(({ task }) => ["multiclass", "binary", "objects"].includes(task)); // others have no label map
  if (all.length && !models.length) fail("The models of this server have no label map to show; see API below.");
  models.forEach((model) => state.models.set(model.name, model));
  const names = [...state.models.keys()];
  first.append(...names.map((name) => new Option(name)));
  second.append(new Option("none", ""), ...names.map((name) => new Option(name)));
  find("#compare").hidden = names.length < 2;
  await predict(); // shows what the first model needs
} catch {
  fail("The server does not answer. Is it still running?");
}
