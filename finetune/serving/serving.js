// Sends images to /predict, /activation_map and /picture, and shows what they answer.

const find = (selector, within = document) => within.querySelector(selector);
const input = find("input");
const drop = find(".drop");
const percent = (share) => (share > 0 && share < 0.01 ? "<1%" : `${Math.round(100 * share)}%`);
const MOST_SHOWN = 4;
let model;
// images may be dropped before it is there
const modelIsThere = fetch("model").then(async (response) => {
  model = await response.json();
  find(".about").textContent = about();
});

find("pre").textContent =
  `curl -F images=@photo.jpg ${location.origin}/predict\n` +
  `curl -F images=@photo.jpg ${location.origin}/activation_map > map.png\n` +
  `curl ${location.origin}/model`;

function about() {
  const names = model.classes ?? [];
  const shown = names.slice(0, 12).join(", ") + (names.length > 12 ? ", …" : "");
  const what = model.task === "regression" ? "value" : "class";
  const plural = names.length === 1 ? what : what === "class" ? "classes" : "values";
  return `${names.length} ${plural}: ${shown}. Images are not kept.`;
}

async function send(address, file) {
  const form = new FormData();
  form.append("images", file, file.name || "pasted image");
  try {
    return await fetch(address, { method: "POST", body: form });
  } catch {
    throw new Error("The server does not answer; is finetune serve still running?");
  }
}

async function answer(file, article) {
  if (file.size > model.most_megabytes * 1e6) {
    throw new Error(`it is larger than ${model.most_megabytes} MB`);
  }
  const response = await send("predict", file);
  const content = await response.json();
  const row = content.predictions?.[0];
  if (!row || row.error) throw new Error(row?.error ?? content.error);
  show(row, article);
  await showMap(file, row, article);
}

function show(row, article) {
  const values = Object.entries(row.probabilities);
  const isRegression = row.label == null;
  find(".unknown", article).hidden = !row.is_unknown;
  find("h2", article).textContent = isRegression
    ? values.map(([name, value]) => `${name} ${Number(value.toPrecision(4))}`).join(", ")
    : row.label || "none of the classes";
  find(".set", article).textContent = inQuestion(row);
  if (row.interval) {
    find(".set", article).textContent = Object.entries(row.interval)
      .map(([name, ends]) => `${name} from ${ends.map((end) => Number(end.toPrecision(4))).join(" to ")}`)
      .join(", ");
  }
  if (isRegression) return;
  values.sort((first, second) => second[1] - first[1]);
  for (const [name, share] of values.slice(0, MOST_SHOWN)) {
    const item = document.createElement("li");
    const words = [document.createElement("span"), document.createElement("span")];
    words[0].textContent = name;
    words[1].textContent = percent(share);
    const bar = document.createElement("span");
    bar.className = "bar";
    bar.append(document.createElement("i"));
    bar.firstChild.style.width = `${100 * share}%`;
    item.append(...words, bar);
    find(".classes", article).append(item);
  }
}

// What a calibrated model promises of its answer; of an image unlike all others it knows nothing.
function inQuestion(row) {
  if (!row.set) return "";
  const often = percent(model.coverage);
  if (row.is_unknown) return "how often such an answer is right is not known";
  const others = row.set.filter((name) => name !== row.label);
  if (!others.length) return `no other class is likely, which holds ${often} of the time`;
  return `may also be ${others.join(" or ")}; one of these holds ${often} of the time`;
}

async function showMap(file, row, article) {
  const figure = find(".map", article);
  const response = await send("activation_map", file);
  if (!response.ok) {
    figure.hidden = true; // a model without maps, or a server without captum
    return;
  }
  find("img", figure).src = URL.createObjectURL(await response.blob());
  find("img", figure).alt = "heat map";
  find("figcaption", figure).textContent = row.label ? "what speaks for it" : "what it looks at";
}

// What the model sees, in place of an array or a TIFF file; nothing where it is no image.
async function showPicture(file, photo) {
  photo.onerror = null;
  photo.style.visibility = "hidden";
  const response = await send("picture", file).catch(() => null);
  if (!response?.ok) return;
  photo.src = URL.createObjectURL(await response.blob());
  photo.style.visibility = "visible";
}

async function take(list) {
  const files = [...list]; // the list is emptied meanwhile
  await modelIsThere;
  find(".error").textContent = "";
  // all at once are shown, and asked about one after the other, as the server may be busy
  const asked = files.map((file) => {
    const article = find("template").content.firstElementChild.cloneNode(true);
    const photo = find(".photo", article);
    photo.src = URL.createObjectURL(file);
    photo.onerror = () => showPicture(file, photo); // a kind that browsers do not show
    find("figcaption", article).textContent = file.name;
    return [file, article];
  });
  find(".answers").prepend(...asked.map(([, article]) => article));
  for (const [file, article] of asked) {
    try {
      await answer(file, article);
    } catch (error) {
      article.remove();
      const text = `${file.name || "the pasted file"}: ${error.message}`;
      find(".error").textContent += `${find(".error").textContent ? "; " : ""}${text}`;
    }
  }
}

input.addEventListener("change", () => {
  take(input.files);
  input.value = "";
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  drop.classList.add("over");
});
document.addEventListener("dragleave", () => drop.classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  take(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => take(event.clipboardData.files));
