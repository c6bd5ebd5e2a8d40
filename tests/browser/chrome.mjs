// Chromium over its DevTools pipe: no package is needed. A page is opened, looked at and typed into.

import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

export const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

export class Chrome {
  constructor(program) {
    this.profile = mkdtempSync(join(tmpdir(), "minimind-browser-"));
    const flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe", "--no-first-run", "--disable-extensions", "--disable-background-networking", `--user-data-dir=${this.profile}`];
    this.process = spawn(program, flags, { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"] });
    this.waiting = new Map();
    this.listeners = [];
    this.last = 0;
    let rest = "";
    this.process.stdio[4].setEncoding("utf8").on("data", (data) => {
      const parts = (rest + data).split("\0");
      rest = parts.pop();
      for (const part of parts) this.take(JSON.parse(part));
    });
  }

  take(message) {
    if (message.id && this.waiting.has(message.id)) {
      const { done, fail } = this.waiting.get(message.id);
      this.waiting.delete(message.id);
      if (message.error) fail(new Error(message.error.message));
      else done(message.result);
    } else {
      for (const listener of this.listeners) listener(message.method, message.params);
    }
  }

  send(method, params = {}) {
    const id = ++this.last;
    const text = JSON.stringify({ id, method, params, ...(this.session ? { sessionId: this.session } : {}) });
    this.process.stdio[3].write(`${text}\0`);
    return new Promise((done, fail) => this.waiting.set(id, { done, fail }));
  }

  /** Opens a page; `early` is a script that runs before the page's own. */
  async open(url, early) {
    const { targetId } = await this.send("Target.createTarget", { url: "about:blank" });
    const { sessionId } = await this.send("Target.attachToTarget", { targetId, flatten: true });
    this.session = sessionId;
    for (const domain of ["Page", "Runtime", "Network", "Log"]) await this.send(`${domain}.enable`);
    await this.send("Page.addScriptToEvaluateOnNewDocument", { source: early });
    await this.go(url);
  }

  async go(url) {
    const loaded = new Promise((done) => this.listeners.push((method) => method === "Page.loadEventFired" && done()));
    await this.send("Page.navigate", { url });
    await loaded;
  }

  /** The value of an expression in the page. */
  async value(expression) {
    const { result, exceptionDetails } = await this.send("Runtime.evaluate", { expression, awaitPromise: true, returnByValue: true });
    if (exceptionDetails) throw new Error(`${expression}: ${exceptionDetails.exception?.description ?? exceptionDetails.text}`);
    return result.value;
  }

  /** Waits until an expression holds. */
  async until(expression, ms = 30000) {
    const end = Date.now() + ms;
    while (!(await this.value(`Boolean(${expression})`))) {
      if (Date.now() > end) throw new Error(`not within ${ms} ms: ${expression}\n${await this.value("document.body.innerText")}`);
      await sleep(20);
    }
  }

  type(text) {
    return this.send("Input.insertText", { text });
  }

  async press(key, modifiers = 0) {
    const codes = { Enter: 13, Escape: 27, Tab: 9, o: 79 };
    const event = { key, code: key.length === 1 ? `Key${key.toUpperCase()}` : key, windowsVirtualKeyCode: codes[key], modifiers, ...(key === "Enter" ? { text: "\r" } : {}) };
    await this.send("Input.dispatchKeyEvent", { type: "keyDown", ...event });
    await this.send("Input.dispatchKeyEvent", { type: "keyUp", ...event });
  }

  size(width, height, mobile = false) {
    return this.send("Emulation.setDeviceMetricsOverride", { width, height, deviceScaleFactor: 1, mobile });
  }

  scheme(value) {
    return this.send("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value }, { name: "prefers-reduced-motion", value: "reduce" }] });
  }

  async shot(name) {
    if (!process.env.MINIMIND_SHOTS) return;
    const { data } = await this.send("Page.captureScreenshot", { format: "png" });
    writeFileSync(join(process.env.MINIMIND_SHOTS, name), Buffer.from(data, "base64"));
  }

  async close() {
    const gone = new Promise((done) => this.process.once("exit", done));
    this.process.kill();
    await gone;
    try {
      rmSync(this.profile, { recursive: true, force: true, maxRetries: 20 });
    } catch (error) {
      // A process of the browser may outlive it and still write: what is left in the temporary folder fails no test.
      console.log(`the profile was not removed: ${error.code}`);
    }
  }
}
