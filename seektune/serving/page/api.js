// Calls to the server the page came from, as any client's.

let key = sessionStorage.getItem("key"); // of this tab alone, and never part of an address

/** The answer to a call; an Error in the server's words when it refuses. */
async function call(path, options = {}) {
  const headers = { "Content-Type": "application/json" };
  if (key) headers.Authorization = `Bearer ${key}`;
  const response = await unlessLost(fetch(path, { ...options, headers, credentials: "omit" }), "unreachable");
  if (response.ok) return response;
  const said = await response.json().catch(() => null);
  const reason = said?.error?.message ?? `HTTP ${response.status}`;
  if (response.status === 401) askForKey(reason);
  throw new Error(reason);
}

/** What was promised; a lost connection becomes an Error that says so. */
async function unlessLost(promise, word) {
  try {
    return await promise;
  } catch (error) {
    throw error.name === "AbortError" ? error : new Error(WORDS[language][word]);
  }
}

/** The chunks of a streamed answer as they come; an Error when the stream ends without its [DONE]. */
async function* chunks(body, signal) {
  const response = await call("v1/chat/completions", { method: "POST", body: JSON.stringify(body), signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ; ) {
    const { done, value } = await unlessLost(reader.read(), "cut");
    if (done) throw new Error(WORDS[language].cut);
    const events = (rest + value).split("\n\n");
    rest = events.pop(); // an event that has not come whole yet
    for (const event of events) {
      const data = event.slice("data: ".length);
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(chunk.error.message);
      yield chunk;
    }
  }
}
