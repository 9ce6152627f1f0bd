// Keeps the page of a server up to date: asks for a newer state, and shows it in place.
"use strict";
(function () {
  const kInterval = 1000, kHiddenInterval = 5000, kPatience = 15000;  // ms
  const live = document.getElementById("live");
  let state = "";    // the ETag of what is shown
  let timer = 0;

  function tell(text, bad) {
    if (live.textContent !== text) live.textContent = text;
    live.classList.toggle("bad", bad);
  }

  function show(answer) {
    if (answer.payload) showRecords(answer);
    tell(answer.status, answer.problem);
  }

  function showRecords(answer) {
    for (const [id, html] of Object.entries(answer.parts)) {
      const part = document.getElementById(id);
      if (part.innerHTML !== html) part.innerHTML = html;  // escaped by the server, as the page itself
    }
    document.title = "sinkscope: " + answer.title;
    document.getElementById("title").textContent = answer.title;
    window.SinkscopePage.show(answer.payload);
  }

  async function ask() {
    clearTimeout(timer);
    try {
      // Of a state whose records are those of the one that is shown the answer holds the line of states alone.
      const answer = await fetch("data" + (state ? "?shown=" + encodeURIComponent(state) : ""),
                                 {headers: state ? {"If-None-Match": state} : {}, cache: "no-store",
                                  signal: AbortSignal.timeout(kPatience)});
      if (answer.status === 200) {
        const content = await answer.json();
        state = answer.headers.get("ETag");
        show(content);
      } else if (answer.status !== 304) {
        throw new Error("status " + answer.status);
      }
    } catch (error) {
      state = "";  // the next answer brings the line of the runs' states back
      tell("the server does not answer; what is shown is from before", true);
    }
    timer = setTimeout(ask, document.hidden ? kHiddenInterval : kInterval);
  }

  document.addEventListener("visibilitychange", () => { if (!document.hidden) ask(); });
  tell("reading the runs", false);
  ask();
})();
