//! One call of a Lua script: by its digest, and with its source where Redis
//! does not know it (after a restart, a failover or SCRIPT FLUSH).

use functional_scaffold_protocol::calls::{Call, Script};
use redis::{ErrorKind, RedisError, aio::MultiplexedConnection};

/// Calls a script that answers with texts.
///
/// # Errors
/// Redis did not answer, or answered with an error.
pub async fn call(
    connection: &mut MultiplexedConnection,
    script: &Script,
    call: &Call,
) -> Result<Vec<String>, RedisError> {
    match send(connection, "EVALSHA", script.sha, call).await {
        Err(error) if error.kind() == ErrorKind::NoScriptError => {
            send(connection, "EVAL", script.source, call).await
        }
        answered => answered,
    }
}

async fn send(
    connection: &mut MultiplexedConnection,
    command: &str,
    script: &str,
    call: &Call,
) -> Result<Vec<String>, RedisError> {
    let mut command = redis::cmd(command);
    command.arg(script);
    for part in call.parts() {
        command.arg(part);
    }
    // Not as text: a script may name a member that is not UTF-8.
    let reply: Vec<Vec<u8>> = command.query_async(connection).await?;
    let texts = reply.iter().map(|text| String::from_utf8_lossy(text));
    Ok(texts.map(|text| text.into_owned()).collect())
}
