// Calls to this server: models, tools, and answers as they stream.

let key = "";
export const setKey = (value) => (key = value);
export const hasKey = () => key !== "";

const headers = () => ({ "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) });

export class Fault extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

const check = async (response) => {
  if (response.ok) return response;
  let message = `${response.status} ${response.statusText}`;
  try {
    message = (await response.json()).error.message;
  } catch {
    // Not our error object: the status says enough.
  }
  throw new Fault(response.status, message);
};

export const get = async (path) => (await check(await fetch(path, { headers: headers() }))).json();
export const getText = async (path) => (await check(await fetch(path, { headers: headers() }))).text();
export const post = async (path, body, signal) =>
  check(await fetch(path, { method: "POST", headers: headers(), body: JSON.stringify(body), signal }));

/** Asks for a chat answer; `onChunk` gets each chunk's object. */
export const chat = async (request, signal, onChunk) => {
  const body = { ...request, stream: true, stream_options: { include_usage: true } };
  const response = await post("/v1/chat/completions", body, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Fault(0, "the answer broke off");
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Fault(500, chunk.error.message);
      onChunk(chunk);
    }
  }
};
