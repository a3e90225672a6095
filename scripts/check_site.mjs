// The built site in a headless Chromium: contrast, names and roles (axe), what is wider than the window, what it asks
// of other hosts, and what a Tab key reaches; each page at three widths, light and dark.
//
//     make docs && npm install --no-save puppeteer-core@24 axe-core@4 && node scripts/check_site.mjs [SCREENSHOTS] [PAGE ...]
//
// $CHROMIUM is the browser (/usr/bin/chromium). Exit code 1 if something is found.
import { readFileSync, mkdirSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { pagesOf, serve } from "./site_server.mjs";

const require = createRequire(join(process.cwd(), "package.json")); // the packages are in this folder
const puppeteer = require("puppeteer-core");
const axe = readFileSync(require.resolve("axe-core"), "utf8");
const site = "build/site";
const [shots, ...asked] = process.argv.slice(2);
const { server, home } = serve(site);

const pages = asked.length ? asked : pagesOf(site);
const browser = await puppeteer.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox"] });
const found = new Map();
const note = (what, where) => found.set(what, [...(found.get(what) ?? []), where]);
let views = 0;
for (const scheme of ["light", "dark"]) {
  for (const width of [375, 800, 1400]) {
    const visitor = await browser.createBrowserContext(); // without the choice of colours of the visit before
    const tab = await visitor.newPage();
    await tab.setViewport({ width, height: 900 });
    await tab.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
    tab.on("request", (request) => request.url().startsWith(home) || request.url().startsWith("data:") || note(`asks ${new URL(request.url()).host}`, tab.url()));
    tab.on("response", (response) => response.status() === 404 && note(`404 ${response.url().slice(home.length)}`, tab.url()));
    tab.on("pageerror", (error) => note(`script: ${error.message}`, tab.url()));
    for (const page of pages) {
      await tab.goto(home + page, { waitUntil: "networkidle0" });
      views += 1;
      const where = `${page || "index"} ${width} ${scheme}`;
      const wide = await tab.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
      if (wide > 0) note(`${wide} pixels wider than the window`, where);
      await tab.evaluate(axe);
      const { violations } = await tab.evaluate(() => axe.run({ runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"] }));
      for (const { id, impact, nodes } of violations) for (const node of nodes) note(`axe ${impact} ${id}`, `${where}: ${node.target}`);
      await tab.keyboard.press("Tab");
      const first = await tab.evaluate(() => document.activeElement.textContent.trim());
      if (!first.startsWith("Skip to content")) note(`the first Tab is at "${first.slice(0, 30)}", not at "Skip to content"`, where);
      if (shots) {
        mkdirSync(shots, { recursive: true });
        await tab.evaluate(() => document.activeElement.blur());
        await tab.screenshot({ path: join(shots, `${where.replaceAll(/[/ ]+/g, "_")}.png`), fullPage: process.env.FULL === "1" });
      }
    }
    await visitor.close();
  }
}
await browser.close();
server.close();
for (const [what, places] of found) console.log(`${what}\n    ${places.length} places, such as ${places[0]}`);
console.log(`${pages.length} pages, ${views} views, ${found.size} findings`);
process.exitCode = found.size ? 1 : 0;
