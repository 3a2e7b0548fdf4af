//! `pillarbox user`: the users of this node.

use super::{
    Failure,
    connect::{call, connect, next},
    output::{Out, Table, moment, plain},
    view,
};
use crate::{
    proto::pillarbox::admin::v1::{
        AddUserRequest, DeleteUserRequest, DisableUserRequest, EnableUserRequest, ListUsersRequest, UserInfo,
    },
    types::check_user_name,
};
use std::path::Path;

pub const EXAMPLES: &str = "Examples:
  pillarbox user add alice
  pillarbox user list
  pillarbox user disable alice
  pillarbox token new user:alice";

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a user
    #[command(after_help = "Examples:
  pillarbox user add alice
  A token for it, which makes the user too:
    pillarbox token new user:alice

A name is 1 to 64 letters, digits, '.', '_' and '-'; Alice and alice are two people.")]
    Add {
        #[arg(value_name = "USER", value_parser = name)]
        user: String,
    },
    /// List all users by name
    #[command(after_help = "Examples:
  pillarbox user list
  pillarbox user list --deleted
  pillarbox user list --json | jq -r 'select(.state == \"disabled\") | .name'")]
    List {
        /// Also those that were deleted
        #[arg(long)]
        deleted: bool,
    },
    /// Refuse a user's tokens and end its streams, until it is enabled
    #[command(after_help = "Examples:
  pillarbox user disable alice
  Back again, with the same sessions:
    pillarbox user enable alice")]
    Disable {
        #[arg(value_name = "USER", value_parser = name)]
        user: String,
    },
    /// Let a disabled user in again
    #[command(after_help = "Examples:
  pillarbox user enable alice")]
    Enable {
        #[arg(value_name = "USER", value_parser = name)]
        user: String,
    },
    /// Delete a user for good; its name is never given to another person
    #[command(after_help = "Examples:
  pillarbox user delete alice
  Only for a while:
    pillarbox user disable alice

Its sessions end. What it wrote stays with those it wrote to.")]
    Delete {
        #[arg(value_name = "USER", value_parser = name)]
        user: String,
    },
}

/// A user's name as an argument.
pub fn name(text: &str) -> Result<String, String> {
    check_user_name("the name", text).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

pub async fn run(command: Command, data_dir: &Path, out: &mut Out) -> Result<(), Failure> {
    let mut node = connect(data_dir).await?;
    match command {
        Command::Add { user: name } => {
            let user = call(node.add_user(AddUserRequest { name })).await?;
            told(out, &user, "is added")
        }
        Command::List { deleted } => {
            let mut users = call(node.list_users(ListUsersRequest { deleted })).await?;
            let columns = [("ID", 14), ("STATE", 8), ("CREATED", 24), ("USER", 0)];
            let table = if out.json() { None } else { Some(Table::streaming(out, &columns)?) };
            while let Some(user) = next(&mut users).await? {
                let Some(table) = &table else {
                    out.object(&view::UserInfo::from(&user))?;
                    continue;
                };
                let (id, state, name) = (plain(&user.id).into(), plain(&user.state).into(), plain(&user.name).into());
                table.row(out, &[id, state, moment(user.created_at), name])?;
            }
            Ok(())
        }
        Command::Disable { user: name } => {
            let user = call(node.disable_user(DisableUserRequest { name })).await?;
            told(out, &user, "is disabled")
        }
        Command::Enable { user: name } => {
            let user = call(node.enable_user(EnableUserRequest { name })).await?;
            told(out, &user, "is enabled")
        }
        Command::Delete { user: name } => {
            let sessions = call(node.delete_user(DeleteUserRequest { name: name.clone() })).await?.sessions;
            let text = format!("user {name} is deleted; {sessions} sessions ended");
            out.either(&view::DeleteUserResponse { sessions }, &text)
        }
    }
}

fn told(out: &mut Out, user: &UserInfo, what: &str) -> Result<(), Failure> {
    let text = format!("user {} ({}) {what}", plain(&user.name), plain(&user.id));
    out.either(&view::UserInfo::from(user), &text)
}
