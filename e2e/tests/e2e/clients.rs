//! Drives sessions with stock Playwright clients in Node and Python.

use anyhow::{Result, ensure};
use camofleet_auth::token::Issuer;
use camofleet_crds::v1alpha1::StartTier;
use camofleet_e2e::{
    Session, TestNamespace,
    clients::{NodeClient, run_python_client},
    rfb::{GREEN, picture},
    rounds,
    site::Site,
    test,
    tokens::Key,
    wait::poll,
};
use serde_json::json;

/// A start page with the background colour [`GREEN`], which the site's form has too (`src/form.html`).
const START_PAGE: &str = "data:text/html,<title>Start</title><body style='background:%230a7b53'>";

#[test]
fn node_and_python_clients_drive_a_page() {
    test("clients", async |ns: TestNamespace| {
        let site = Site::start(&ns.fleet).await?;
        ns.pool("live", json!({ "replicas": 2, "sessionDefaults": { "display": "LiveView" } })).await?;
        let (node, python) = (
            ns.ready_session(json!({ "startUrl": START_PAGE })).await?,
            ns.ready_session(json!({ "startUrl": START_PAGE })).await?,
        );
        for session in [&node, &python] {
            ensure!(
                session.object().await?.status.unwrap_or_default().start_tier == Some(StartTier::Hot),
                "the session started cold"
            );
        }
        wait_for_start_page_on_display(&ns, &node).await?;
        drive_with_node(&ns, &node, &site.url).await?;
        wait_for_start_page_on_display(&ns, &python).await?;
        let results = run_python_client(&ns, &python, &site.url).await?;
        let expected = json!({
            "found": "Start", "greeting": "Hello, Grace", "routed": "routed by Python", "downloaded": "downloaded", "isPng": true,
        });
        ensure!(results == expected, "the Python client returned {results}");
        Ok(())
    });
}

async fn wait_for_start_page_on_display(ns: &TestNamespace, session: &Session) -> Result<()> {
    let gateway_key = Key::load(&ns.fleet, Issuer::Gateway).await?;
    let runner = session.runner().await?;
    poll("the display to show the start page", async || {
        let picture = picture(&gateway_key, &runner, &session.uid).await?;
        ensure!(
            (picture.width, picture.height) == (1280, 720),
            "the display is {} x {}",
            picture.width,
            picture.height
        );
        // The browser's toolbars cover the rest.
        let share = picture.share_of(GREEN);
        ensure!(share > 0.7, "the page covers only {share} of the display");
        Ok(())
    })
    .await
}

async fn drive_with_node(ns: &TestNamespace, session: &Session, site: &str) -> Result<()> {
    let mut client = NodeClient::connect_with_site(ns, session, site).await?;
    let found = client.run("return [browser.contexts().length, context.pages().length, await page.title()]").await?;
    ensure!(found == json!([1, 1, "Start"]), "the client found {found}");

    client.run("await page.goto(`${site}/form`)").await?;
    let greeting =
        client.run("await page.fill('#name', 'Ada'); await page.click('#greet'); return page.textContent('#greeting')");
    ensure!(greeting.await? == "Hello, Ada", "fill and click had no effect");

    let fetch = "await page.click('#fetch'); await page.waitForSelector('#fetched:not(:empty)'); return page.textContent('#fetched')";
    ensure!(client.run(fetch).await? == "from the site", "the page's request had no effect");
    client
        .run("await page.reload(); await page.route('**/greeting', (route) => route.fulfill({ body: 'routed' }))")
        .await?;
    ensure!(client.run(fetch).await? == "routed", "the route did not intercept the request");

    let saved = tempfile::NamedTempFile::new()?;
    let download = format!(
        "const [download] = await Promise.all([page.waitForEvent('download'), page.click('#download')]);
         await download.saveAs({path}); return [download.suggestedFilename(), fs.readFileSync({path}, 'utf8')]",
        path = json!(saved.path())
    );
    ensure!(client.run(&download).await? == json!(["saved.txt", "downloaded"]));

    // The browser decodes the screenshot and returns the colour of a pixel.
    let screenshot = "const png = (await page.screenshot()).toString('base64');
        return page.evaluate(async (png) => {
            const image = new Image();
            image.src = `data:image/png;base64,${png}`;
            await image.decode();
            const canvas = Object.assign(document.createElement('canvas'), { width: image.width, height: image.height });
            const context = canvas.getContext('2d');
            context.drawImage(image, 0, 0);
            return [...context.getImageData(image.width - 9, image.height - 9, 1, 1).data].slice(0, 3);
        }, png)";
    let colour = client.run(screenshot).await?;
    ensure!(colour == json!(GREEN), "the screenshot has the colour {colour}");

    let other = client.run(
        "const other = await browser.newContext(); const page = await other.newPage(); await page.goto(`${site}/form`);
         const title = await page.title(); await other.close(); return title",
    );
    ensure!(other.await? == "Form", "a new context did not load the page");
    client.run("await browser.close()").await?;
    Ok(())
}

#[test]
fn relays_large_messages() {
    test("large-messages", async |ns: TestNamespace| {
        let site = Site::start(&ns.fleet).await?;
        ns.pool("pool", json!({})).await?;
        let session = ns.ready_session(json!({})).await?;
        let mut client = NodeClient::connect_with_site(&ns, &session, &site.url).await?;
        let length = client.run("return (await page.evaluate(() => 'x'.repeat(5_000_000))).length").await?;
        ensure!(length == 5_000_000, "a response of 5 MB arrived with length {length}");

        client.run("await page.goto(`${site}/form`)").await?;
        let upload = "const buffer = Buffer.alloc(20_000_000, 'abcdefg');
            await page.setInputFiles('#file', { name: 'large', mimeType: 'application/octet-stream', buffer });
            return page.evaluate(async () => {
                const [file] = document.querySelector('#file').files;
                const end = await file.slice(-4).text();
                return [file.size, end, await (await fetch('/upload', { method: 'POST', body: file })).text()];
            })";
        let uploaded = client.run(upload).await?;
        // 20 000 000 = 7 · 2 857 142 + 6
        ensure!(uploaded == json!([20_000_000, "cdef", "20000000"]), "an upload of 20 MB returned {uploaded}");
        Ok(())
    });
}

#[test]
fn a_reconnecting_client_finds_its_contexts() {
    test("reconnect", async |ns: TestNamespace| {
        ns.pool("pool", json!({})).await?;
        let session = ns.ready_session(json!({})).await?;
        for round in 0..rounds() {
            let mut client = NodeClient::start(&ns, &session).await?;
            let fill = format!(
                "await connect('&client=worker'); const created = await browser.newContext(); const page = await created.newPage();
                 await page.setContent('<title>mine</title><input id=value>'); await page.fill('#value', 'kept {round}')"
            );
            client.run(&fill).await?;
            client.kill().await?;

            let mut client = NodeClient::start(&ns, &session).await?;
            let find = "await connect('&client=worker'); for (const page of browser.contexts().flatMap((context) => context.pages()))
                    if (await page.title() === 'mine') return page.inputValue('#value')";
            let found = client.run(find).await?;
            ensure!(found == format!("kept {round}"), "round {round}: the reconnected client found {found}");
            // After a clean close nothing is left for the next connection.
            client.run("await browser.close()").await?;
            let mut next = NodeClient::start(&ns, &session).await?;
            let left = "await connect('&client=worker'); const left = browser.contexts().length; await browser.close(); return left";
            let left = next.run(left).await?;
            ensure!(left == 1, "round {round}: {left} contexts remain");
        }
        Ok(())
    });
}
