//! The process whose instructions are counted: the whole server, and nothing else.

use std::hint::black_box;
use std::io;
use std::sync::mpsc;
use std::thread;

use voicebridge::app::App;
use voicebridge::config::{Config, Need};
use voicebridge::telemetry;

/// Name of the function that parts one count from the next.
pub(crate) const BORDER: &str = "counted_until_here";

/// Serves, as its environment says. Says where, then answers each line of its input with a border, until there is none.
pub(crate) fn run() -> anyhow::Result<()> {
    let (started, addr) = mpsc::channel();
    thread::Builder::new().name("server".to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        // As `voicebridge serve` does, but on one thread: how work is spread over threads differs from run to run.
        runtime.expect("a runtime can be made").block_on(async {
            let config = Config::load(None, Need::Calls).expect("the configuration is good");
            // Spans and events cost what they cost in service.
            telemetry::init_logging(config.log_format, &config.log_filter).expect("nobody has done it");
            let running = App::start(config).await.expect("the server starts");
            started.send(running.addr).expect("it is waited for");
            std::future::pending::<()>().await;
        });
    })?;
    println!("{}", addr.recv()?);
    for (line, part) in io::stdin().lines().zip(0..) {
        line?;
        counted_until_here(part);
        println!("{part}");
    }
    Ok(())
}

/// Callgrind writes down what was executed whenever this is entered.
#[inline(never)]
fn counted_until_here(part: u32) {
    black_box(part);
}
