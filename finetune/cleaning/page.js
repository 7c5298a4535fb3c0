// The cleaner on a page of its own: a model like that of anywidget, which asks a server.

import cleaner from "./cleaner.js";

const listeners = [];
let view = await (await fetch("view")).json();

const model = {
  get: () => view,
  on: (_event, listener) => listeners.push(listener),
  send: async (command) => {
    try {
      const answer = await fetch("act", {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify(command),
      });
      const content = await answer.json();
      view = answer.ok ? content : { ...view, error: content.error };
    } catch {
      view = { ...view, error: "finetune clean does not answer; is it still running in the terminal?" };
    }
    listeners.forEach((listener) => listener());
  },
};

const place = document.getElementById("cleaner");
cleaner.render({ model, el: place });
// here all keys are meant for it, also after a click beside it
document.addEventListener("keydown", (event) => {
  if (event.target !== document.body) return;
  place.firstElementChild.dispatchEvent(new KeyboardEvent("keydown", event));
});
