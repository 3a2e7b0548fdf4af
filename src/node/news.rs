//! What users are told of the events of other servers: the way from the postbox
//! to the push log, which do not know each other.

use crate::{
    error::Error,
    federation::{Changes, Heard, Listener},
    identity::users::Users,
    push::{Push, harmony},
    store::Change,
    types::{Millis, ServerId, UserId},
};

/// Tells users of this node what is about them.
pub struct News {
    pub push: Push,
    pub users: Users,
}

impl Listener for News {
    fn listens(&self) -> bool {
        self.push.wanted()
    }

    fn hear(&self, server: ServerId, heard: Vec<Heard>, now: Millis) -> Changes<'_> {
        Box::pin(self.tell(server, heard, now))
    }
}

impl News {
    async fn tell(&self, server: ServerId, heard: Vec<Heard>, now: Millis) -> Result<Vec<Change>, Error> {
        let about = |heard: &Heard| harmony::user_of(&heard.kind).and_then(UserId::new);
        let ids: Vec<UserId> = heard.iter().filter_map(about).collect();
        let names = self.users.names(&ids).await?;
        let told = heard.iter().filter_map(|heard| {
            let name = names.get(&about(heard)?)?;
            harmony::event(&heard.kind, name.clone(), &server, &heard.id, now).map(Change::from)
        });
        Ok(told.collect())
    }
}
