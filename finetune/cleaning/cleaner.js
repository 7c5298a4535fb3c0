// What a person sees of a Session: one image at a time, and what can be done with it.
//
// `model` is that of anywidget: get("view") is what to show, send(command) asks for something, and
// "change:view" says that it was done. In a notebook anywidget brings it, on a page page.js does.

const SKELETON = `
  <header>
    <div class="bar" role="progressbar" aria-label="decided"><div></div></div>
    <p class="count"></p>
    <p class="note"></p>
  </header>
  <p class="error" role="alert"></p>
  <section class="one">
    <div class="frame"><img alt=""></div>
    <div class="facts">
      <p class="label">labelled <b></b></p>
      <p class="reason"></p>
      <p class="decided"></p>
      <div class="acts">
        <button type="button" class="keep">The label is right <kbd>K</kbd></button>
        <button type="button" class="accept"><span></span> <kbd>L</kbd></button>
        <form class="other">
          <input list="" placeholder="another class" aria-label="another class" autocomplete="off">
          <datalist></datalist>
          <button type="submit">Relabel <kbd>C</kbd></button>
        </form>
        <button type="button" class="remove">Leave the image out <kbd>X</kbd></button>
      </div>
      <p class="name"></p>
    </div>
  </section>
  <section class="end">
    <h2></h2>
    <p class="written"></p>
    <pre></pre>
  </section>
  <footer>
    <button type="button" class="back" aria-label="previous image">&#8592;</button>
    <button type="button" class="undo">Undo <kbd>U</kbd></button>
    <button type="button" class="next" aria-label="next image">&#8594;</button>
  </footer>`;

const DONE = { keep: "kept as it is", relabel: "relabelled", remove: "left out" };

let cleaners = 0;

function render({ model, el }) {
  const root = document.createElement("div");
  root.className = "finetune-cleaner";
  root.tabIndex = 0;
  root.dataset.lmSuppressShortcuts = "true"; // JupyterLab's own keys are not for this element
  root.innerHTML = SKELETON;
  el.append(root);
  const find = (selector) => root.querySelector(selector);
  const input = find("input");
  const list = find("datalist");
  list.id = `finetune-classes-${(cleaners += 1)}`;
  input.setAttribute("list", list.id);
  let waiting = false;
  let classes = "";

  const view = () => model.get("view");
  const send = (command) => {
    // what is asked of an image that is about to change would be done to another one
    if (waiting) return;
    waiting = true;
    root.classList.add("waiting");
    model.send(command);
  };
  const decide = (action, label = "") =>
    send({ do: "decide", number: view().number, action, new_label: label });
  const isAtEnd = () => view().number >= view().total;
  const acts = {
    keep: () => isAtEnd() || decide("keep"),
    accept: () => isAtEnd() || !view().suggestion || decide("relabel", view().suggestion),
    remove: () => isAtEnd() || decide("remove"),
    undo: () => view().can_undo && send({ do: "undo" }),
    back: () => view().number > 0 && send({ do: "show", number: view().number - 1 }),
    next: () => isAtEnd() || send({ do: "show", number: view().number + 1 }),
    other: () => isAtEnd() || input.focus(),
  };
  const keys = {
    k: "keep", l: "accept", x: "remove", delete: "remove", u: "undo", c: "other",
    arrowleft: "back", arrowright: "next",
  };

  for (const name of ["keep", "accept", "remove", "undo", "back", "next"]) {
    find(`button.${name}`).addEventListener("click", () => {
      acts[name]();
      root.focus({ preventScroll: true });
    });
  }
  find("form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (input.value && !isAtEnd()) {
      decide("relabel", input.value);
      root.focus({ preventScroll: true });
    } else {
      input.focus();
    }
  });
  root.addEventListener("keydown", (event) => {
    event.stopPropagation();
    const key = event.key.toLowerCase();
    if (event.target === input) {
      if (key === "escape") root.focus();
      return;
    }
    if ((event.ctrlKey || event.metaKey) && key === "z") {
      event.preventDefault();
      acts.undo();
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey || !(key in keys)) return;
    event.preventDefault();
    acts[keys[key]]();
  });

  function show() {
    waiting = false;
    root.classList.remove("waiting");
    const now = view();
    const decided = now.counts.keep + now.counts.relabel + now.counts.remove;
    const end = now.number >= now.total;
    const share = now.total ? (100 * decided) / now.total : 100;
    find(".bar > div").style.width = `${share}%`;
    find(".bar").setAttribute("aria-valuenow", Math.round(share));
    find(".count").textContent =
      (end ? "" : `image ${now.number + 1} of ${now.total} · `) +
      `${now.counts.keep} kept · ${now.counts.relabel} relabelled · ${now.counts.remove} left out`;
    find(".note").textContent = now.note;
    find(".error").textContent = now.error;
    find(".one").hidden = end;
    find(".end").hidden = !end;
    find("button.undo").disabled = !now.can_undo;
    find("button.back").disabled = now.number === 0;
    find("button.next").disabled = end;
    if (end) {
      showEnd(now, decided);
      return;
    }
    find("img").src = now.image || "data:,";
    find("img").alt = now.image ? `the image ${now.name}` : "the image can't be read";
    find(".label").hidden = !now.label;
    find(".label b").textContent = now.label;
    find(".reason").textContent = now.reason;
    find(".name").textContent = now.name;
    const done = DONE[now.action];
    find(".decided").textContent = done
      ? now.action === "relabel" ? `${done}: ${now.new_label}` : done
      : "";
    find(".accept").hidden = !now.suggestion;
    find(".accept span").textContent = `It is ${now.suggestion}`;
    find(".keep").firstChild.textContent = now.label ? `It is ${now.label} ` : "Keep it ";
    find("form").hidden = !now.classes.length;
    input.value = "";
    if (classes !== now.classes.join("\n")) {
      classes = now.classes.join("\n");
      list.replaceChildren(...now.classes.map((name) => new Option(name, name)));
    }
  }

  function showEnd(now, decided) {
    const open = now.total - decided;
    find(".end h2").textContent = !now.total
      ? "There is no image to ask about."
      : open ? `That was the last image; ${open} are undecided.` : "All images are decided.";
    find(".written").textContent = decided
      ? `The decisions are in ${now.file}. No image was moved or deleted. Train with them:`
      : "";
    find(".end pre").hidden = !decided;
    find(".end pre").textContent =
      `ImageDataLoaders.from_folder(..., corrections=${JSON.stringify(now.file)})\n` +
      `finetune train ... --corrections ${JSON.stringify(now.file)}`;
  }

  model.on("change:view", show);
  show();
  root.focus({ preventScroll: true });
  return () => model.off?.("change:view", show);
}

export default { render };
