// Lighthouse's scores of pages of the built site, as on a phone and on a desk.
//
//     make docs && npm install --no-save lighthouse@12 && node scripts/lighthouse.mjs [PAGE ...]
//
// $CHROMIUM is the browser (/usr/bin/chromium). Without pages, six are looked at, and results/lighthouse.json and .md are
// written. Exit code 1 for a score below 0.9, 2 for a page that is not there.
import { createRequire } from "node:module";
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { pagesOf, serve } from "./site_server.mjs";

const main = createRequire(join(process.cwd(), "package.json")).resolve("lighthouse"); // the package is in this folder
const cli = join(dirname(dirname(main)), "cli", "index.js");
const pages = process.argv.length > 2 ? process.argv.slice(2) : ["", "tutorial/", "papers/", "results/", "howto/data/", "api/formats/"];
const unknown = pages.filter((page) => !pagesOf("build/site").includes(page));
if (unknown.length) {
  console.error(`lighthouse: the site has no page ${unknown.join(", ")}`);
  process.exit(2);
}
const categories = ["performance", "accessibility", "best-practices", "seo"];
const folder = mkdtempSync(join(tmpdir(), "lighthouse-"));
const { server, home } = serve("build/site");
const rows = [];
for (const page of pages)
  for (const device of ["phone", "desk"]) {
    const output = join(folder, "report.json");
    const words = [home + page, "--quiet", "--chrome-flags=--headless=new --no-sandbox", "--output=json", `--output-path=${output}`];
    if (device === "desk") words.push("--preset=desktop");
    await run(words);
    const report = JSON.parse(readFileSync(output));
    const scores = Object.fromEntries(categories.map((name) => [name, report.categories[name].score]));
    const weighed = categories.flatMap((name) => report.categories[name].auditRefs).filter(({ weight }) => weight > 0);
    const below = weighed.map(({ id }) => report.audits[id]).filter(({ score }) => score !== null && score < 0.9);
    rows.push({ page: page || "index", device, ...scores, below: below.map(({ id }) => id) });
  }
server.close();
const head = ["page", "device", ...categories, "below 0.9"];
const lines = [head, head.map(() => "---"), ...rows.map(({ below, ...row }) => [...Object.values(row), below.join(", ")])];
const table = lines.map((cells) => `| ${cells.join(" | ")} |\n`).join("");
const lighthouse = JSON.parse(readFileSync(join(dirname(dirname(main)), "package.json"))).version;
if (process.argv.length === 2) {
  writeFileSync("results/lighthouse.json", JSON.stringify({ lighthouse, rows }, null, 2) + "\n");
  writeFileSync("results/lighthouse.md", table);
}
process.stdout.write(table);
process.exitCode = rows.some((row) => categories.some((name) => row[name] < 0.9)) ? 1 : 0;

async function run(words) { // the server of this process answers meanwhile
  const environment = { ...process.env, CHROME_PATH: process.env.CHROMIUM ?? "/usr/bin/chromium" };
  const child = spawn(process.execPath, [cli, ...words], { env: environment, stdio: ["ignore", "ignore", "inherit"] });
  const code = await new Promise((resolve) => child.on("exit", resolve));
  if (code !== 0) throw new Error(`lighthouse ended with ${code} at ${words[0]}`);
}
