// The built site as a host of static files serves it: compressed, and 404 for what is not there.
import { existsSync, readFileSync, readdirSync, statSync } from "node:fs";
import { createServer } from "node:http";
import { extname, join } from "node:path";
import { gzipSync } from "node:zlib";

const types = { ".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml", ".png": "image/png", ".json": "application/json" };

export function serve(site) {
  const server = createServer((request, response) => {
    let file = join(site, decodeURIComponent(new URL(request.url, "http://x").pathname));
    if (existsSync(file) && statSync(file).isDirectory()) file = join(file, "index.html");
    if (!existsSync(file)) return response.writeHead(404).end();
    const headers = { "content-type": types[extname(file)] ?? "application/octet-stream", "content-encoding": "gzip" };
    response.writeHead(200, headers).end(gzipSync(readFileSync(file)));
  }).listen(0);
  return { server, home: `http://localhost:${server.address().port}/` };
}

export function pagesOf(site) {
  const built = readdirSync(site, { recursive: true }).filter((name) => name.endsWith("index.html")).sort();
  return built.map((name) => name.slice(0, -"index.html".length));
}
