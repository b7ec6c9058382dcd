// Bundles src/ into dist/worker.js and collects the licences of what is bundled into NOTICE, byte for byte the same wherever it
// runs: pinned packages, no source map, no paths in the output. `npm run build -- <folder>` writes into another folder, so that a
// test can compare without touching what is committed.
import { build } from "esbuild";
import { mkdir, readFile, readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const here = fileURLToPath(new URL(".", import.meta.url));
const out = process.argv[2] ?? here;

const { metafile } = await build({
  absWorkingDir: here,
  entryPoints: ["src/index.js"],
  outfile: join(out, "dist/worker.js"),
  bundle: true,
  format: "esm",
  target: "es2022",
  platform: "neutral",
  mainFields: ["module", "main"],
  conditions: ["workerd"], // the SDK's variant for Workers: no stdio, no code generation in its JSON Schema validator
  external: ["cloudflare:*"],
  minify: true,
  legalComments: "none",
  charset: "utf8",
  metafile: true,
});

const bundled = new Set(Object.keys(metafile.inputs).map((path) => /^(node_modules\/(?:@[^/]+\/)?[^/]+)\//.exec(path)?.[1]));
bundled.delete(undefined); // our own files

const notices = [];
for (const folder of [...bundled].sort()) {
  const { name, version, license } = JSON.parse(await readFile(join(here, folder, "package.json"), "utf8"));
  const file = (await readdir(join(here, folder))).find((entry) => /^licen[cs]e/i.test(entry));
  const text = file ? await readFile(join(here, folder, file), "utf8") : `Licence: ${license}\n`;
  notices.push(`${name} ${version}\n\n${text.trim()}\n`);
}
await mkdir(out, { recursive: true });
await writeFile(join(out, "NOTICE"), `dist/worker.js contains:\n\n${notices.join(`\n${"-".repeat(72)}\n\n`)}`);
