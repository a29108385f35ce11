"use strict";
// Has the trace processor of Perfetto's web page read a trace and answer a query.
//
// node perfetto_reader.js FOLDER TRACE QUERY: FOLDER holds the page's engine_bundle.js. The query
// gives one column of text; its rows are printed as a JSON list. Requests and replies are messages
// of protos/perfetto/trace_processor/trace_processor.proto.

const fs = require("fs");
const path = require("path");
const vm = require("vm");

const [folder, trace, sql] = process.argv.slice(2);
const APPEND = 1, FINALIZE = 2, QUERY = 3; // TraceProcessorRpc.TraceProcessorMethod

// ---- protobuf, as far as it is needed: varints and fields of bytes

function varint(number) {
  const bytes = [];
  for (; number > 127; number = Math.floor(number / 128)) bytes.push((number % 128) | 128);
  return Buffer.from([...bytes, number]);
}

function field(number, content) {
  if (typeof content === "number") return Buffer.concat([varint(number * 8), varint(content)]);
  return Buffer.concat([varint(number * 8 + 2), varint(content.length), content]);
}

function fields(bytes) {
  const found = [];
  let at = 0;
  const read = () => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = bytes[at++];
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const key = read();
    const kind = key % 8;
    let content = null;
    if (kind === 0) content = read();
    else if (kind === 1) at += 8;
    else if (kind === 5) at += 4;
    else {
      const size = read();
      content = bytes.subarray(at, at + size);
      at += size;
    }
    found.push([Math.floor(key / 8), content]);
  }
  return found;
}

const all = (bytes, number) => fields(bytes).filter(([n]) => n === number).map(([, c]) => c);

// ---- what the page's worker finds around it

let seq = 0;
const port = {
  ask: (request, ...more) => {
    const rpc = Buffer.concat([field(1, ++seq), field(2, request), ...more]);
    port.onmessage({ data: new Bytes(field(1, rpc)) });
  },
  postMessage: (reply) => all(Buffer.from(reply), 1).forEach(took),
};
const rows = [];

function fail(text) {
  console.error(text);
  process.exit(1);
}

function took(rpc) {
  for (const each of all(rpc, 5)) fail(`fatal: ${each}`);
  for (const appended of all(rpc, 201)) for (const error of all(appended, 2)) fail(`append: ${error}`);
  for (const ended of all(rpc, 212)) for (const error of all(ended, 1)) fail(`finalize: ${error}`);
  for (const result of all(rpc, 203)) {
    for (const error of all(result, 2)) if (error.length) fail(`query: ${error}`);
    for (const batch of all(result, 3))
      for (const cells of all(batch, 5)) rows.push(...cells.toString().split("\0").slice(0, -1));
  }
}

const worker = { location: { href: "" } };
const context = vm.createContext({
  self: worker,
  WorkerGlobalScope: function () {},
  TextDecoder,
  URL,
  performance,
  crypto,
  setTimeout,
  console: { ...console, log: console.error },
  // The page's worker loads its wasm by this.
  XMLHttpRequest: class {
    open(method, name) {
      this.name = name;
    }
    send() {
      this.response = fs.readFileSync(path.join(folder, this.name));
    }
  },
});
// It checks that what it is given is an array of its own world.
const Bytes = vm.runInContext("Uint8Array", context);
vm.runInContext(fs.readFileSync(path.join(folder, "engine_bundle.js"), "utf8"), context);
worker.onmessage({ data: port });

function whenReady() {
  try {
    port.ask(APPEND, field(101, fs.readFileSync(trace)));
  } catch (error) {
    // The wasm is started without telling when.
    if (seq < 1000) return setTimeout(whenReady, 100);
    throw error;
  }
  port.ask(FINALIZE);
  port.ask(QUERY, field(103, field(1, Buffer.from(sql))));
  console.log(JSON.stringify(rows));
}
setTimeout(whenReady, 100);
