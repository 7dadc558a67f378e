//! The table of permissions in nats-server's words: two accounts, no secrets.

use std::fmt::Write;

use super::permissions::{Permissions, User, permissions};

const HEAD: &str = "\
# Written by `forebay keys`, which also brings it up to date after an upgrade: public keys and permissions, no secrets.
# Include it in the configuration of every nats-server of the cluster.
system_account: SYS
accounts {
";

/// `users`: each with its public key.
pub(super) fn render(users: &[(User, String)]) -> String {
    let mut text = HEAD.to_owned();
    let of = |system: bool| users.iter().filter(move |(user, _)| (*user == User::System) == system);
    let _infallible = account(&mut text, "FOREBAY", "    jetstream: enabled\n", of(false))
        .and_then(|()| account(&mut text, "SYS", "", of(true)));
    text.push_str("}\n");
    text
}

fn account<'a>(
    text: &mut String,
    name: &str,
    settings: &str,
    users: impl Iterator<Item = &'a (User, String)>,
) -> std::fmt::Result {
    write!(text, "  {name} {{\n{settings}    users: [\n")?;
    for (user, key) in users {
        let Permissions { publish, never_publish, subscribe, answers } = permissions(*user, key);
        writeln!(text, "      # {}\n      {{\n        nkey: {key}\n        permissions: {{", user.as_str())?;
        writeln!(text, "          publish: {{\n            allow: {}", list(&publish))?;
        if !never_publish.is_empty() {
            writeln!(text, "            deny: {}", list(&never_publish))?;
        }
        writeln!(text, "          }}\n          subscribe: {{\n            allow: {}\n          }}", list(&subscribe))?;
        if answers {
            // One answer to a question that was asked of it, wherever the asker listens.
            writeln!(text, "          allow_responses: {{ max: 1, expires: \"30s\" }}")?;
        }
        writeln!(text, "        }}\n      }}")?;
    }
    writeln!(text, "    ]\n  }}")
}

fn list(subjects: &[String]) -> String {
    let mut text = "[\n".to_owned();
    for subject in subjects {
        let _infallible = writeln!(text, "              \"{subject}\"");
    }
    text + "            ]"
}
