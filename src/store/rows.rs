//! Statements over many rows, in the fixed sizes 64, 16, 4 and 1, so that each
//! text is built and prepared once whatever a batch holds.
//!
//! Also the two casts between u64 and SQLite's integers, and the choice of a
//! page by rows and bytes. Never knows a table.

use super::error;
use crate::error::Error;
use sqlx::{
    Arguments, AssertSqlSafe, Either, Encode, Executor, Sqlite, SqliteConnection, Type, sqlite::SqliteArguments,
};
use std::sync::Arc;
use tokio_stream::{Stream, StreamExt};

const SIZES: [usize; 4] = [64, 16, 4, 1];
/// Statements that may become one text.
const JOINED: usize = 16;

/// Statements to be run one after the other. The smaller ones are joined to one
/// text: each text is a way to SQLite's thread and back, which costs more than
/// a row. There are few different texts, and each is prepared once.
#[derive(Default)]
pub(super) struct Script {
    steps: Vec<Step>,
    /// The first value that could not be encoded.
    broken: Option<sqlx::Error>,
}

struct Step {
    text: Text,
    values: SqliteArguments,
    /// Statements of it, by their place, and the rows that each is to change.
    counted: Vec<(usize, u64)>,
}

enum Text {
    Joined { text: String, statements: usize },
    Long(Arc<str>),
}

impl Script {
    /// Adds a statement whose parameters are all `?`; its values are bound next.
    pub(super) fn add(&mut self, statement: &str) -> &mut Self {
        match self.steps.last_mut().map(|step| &mut step.text) {
            Some(Text::Joined { text, statements }) if *statements < JOINED => {
                text.push(';');
                text.push_str(statement);
                *statements += 1;
            }
            _ => self.step(Text::Joined { text: statement.to_owned(), statements: 1 }),
        }
        self
    }

    fn step(&mut self, text: Text) {
        self.steps.push(Step { text, values: SqliteArguments::default(), counted: vec![] });
    }

    /// The statement added last is to change so many rows.
    fn count(&mut self, rows: usize) {
        if let Some(step) = self.steps.last_mut() {
            step.counted.push((step.statements() - 1, rows as u64));
        }
    }

    /// Binds the next `?` of the statement added last.
    pub(super) fn bind<'t>(&mut self, value: impl Encode<'t, Sqlite> + Type<Sqlite>) -> &mut Self {
        let added = self.steps.last_mut().map_or(Ok(()), |step| step.values.add(value));
        if let Err(cause) = added {
            self.broken.get_or_insert(sqlx::Error::Encode(cause));
        }
        self
    }

    pub(super) async fn run(self, connection: &mut SqliteConnection) -> Result<Changed, sqlx::Error> {
        if let Some(cause) = self.broken {
            return Err(cause);
        }
        let mut changed = Changed::All;
        for step in self.steps {
            changed = changed.and(step.run(connection).await.map_err(|(cause, _)| cause)?);
        }
        Ok(changed)
    }

    /// Runs them and then COMMIT, which is one text with the last of them.
    pub(super) async fn commit(mut self, connection: &mut SqliteConnection) -> Result<Changed, Uncommitted> {
        if let Some(cause) = self.broken {
            return Err(Uncommitted::Before(cause));
        }
        self.add("COMMIT");
        let mut changed = Changed::All;
        let Some(last) = self.steps.pop() else { return Ok(changed) };
        for step in self.steps {
            changed = changed.and(step.run(connection).await.map_err(|(cause, _)| Uncommitted::Before(cause))?);
        }
        let before = last.statements() - 1;
        let end = last.run(connection).await.map_err(|(cause, finished)| match finished == before {
            true => Uncommitted::Commit(cause),
            false => Uncommitted::Before(cause),
        })?;
        Ok(changed.and(end))
    }
}

/// Whether statements that count changed as many rows as they were to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Changed {
    All,
    Fewer,
}

impl Changed {
    fn and(self, other: Self) -> Self {
        if self == Self::All { other } else { self }
    }
}

/// Where a transaction ended that was to be committed.
#[derive(Debug)]
pub(super) enum Uncommitted {
    /// At a statement before the COMMIT.
    Before(sqlx::Error),
    /// At the COMMIT itself.
    Commit(sqlx::Error),
}

impl Step {
    fn statements(&self) -> usize {
        match self.text {
            Text::Joined { statements, .. } => statements,
            Text::Long(_) => 1,
        }
    }

    /// A failure comes with how many of its statements had finished.
    async fn run(self, connection: &mut SqliteConnection) -> Result<Changed, (sqlx::Error, usize)> {
        let mut results = match self.text {
            Text::Joined { text, .. } => connection.fetch_many(sqlx::query_with(AssertSqlSafe(text), self.values)),
            Text::Long(text) => connection.fetch_many(sqlx::query_with(AssertSqlSafe(text), self.values)),
        };
        let (mut finished, mut changed) = (0, Changed::All);
        while let Some(result) = results.next().await {
            match result {
                Ok(Either::Left(done)) => {
                    if self.counted.iter().any(|(at, rows)| *at == finished && *rows != done.rows_affected()) {
                        changed = Changed::Fewer;
                    }
                    finished += 1;
                }
                Ok(Either::Right(_)) => {}
                Err(cause) => return Err((cause, finished)),
            }
        }
        Ok(changed)
    }
}

/// One statement with a list of rows in it: `head (…), (…) tail`.
pub(super) struct ManyRows {
    texts: [Arc<str>; SIZES.len()],
}

impl ManyRows {
    /// `row` is written with `?` for each column: `(?, ?)`.
    pub(super) fn new(head: &str, row: &str, tail: &str) -> Self {
        Self { texts: SIZES.map(|size| text(head, row, tail, size).into()) }
    }

    /// `bind` binds the columns of one row.
    pub(super) fn write<T>(&self, script: &mut Script, rows: &[T], bind: impl Fn(&mut Script, &T)) {
        for (text, part) in self.parts(rows) {
            self.add(script, text, part, &bind);
        }
    }

    /// The same where each row is to change one of the table.
    pub(super) fn write_counted<T>(&self, script: &mut Script, rows: &[T], bind: impl Fn(&mut Script, &T)) {
        for (text, part) in self.parts(rows) {
            self.add(script, text, part, &bind);
            script.count(part.len());
        }
    }

    fn add<T>(&self, script: &mut Script, text: Arc<str>, part: &[T], bind: &impl Fn(&mut Script, &T)) {
        if part.len() < SIZES[0] {
            script.add(&text);
        } else {
            script.step(Text::Long(text));
        }
        part.iter().for_each(|row| bind(script, row));
    }

    /// The largest size that still fits, again and again.
    fn parts<'a, T>(&'a self, mut rest: &'a [T]) -> impl Iterator<Item = (Arc<str>, &'a [T])> {
        std::iter::from_fn(move || {
            let at = SIZES.iter().position(|size| *size <= rest.len())?;
            let (part, after) = rest.split_at(SIZES[at]);
            rest = after;
            Some((self.texts[at].clone(), part))
        })
    }
}

/// The parameters stay without numbers: SQLite looks a numbered one up by a
/// walk through all of them, which costs more than the rows of a long list.
/// A dialect that must have numbers can be given them here.
fn text(head: &str, row: &str, tail: &str, rows: usize) -> String {
    format!("{head} {} {tail}", vec![row; rows].join(", "))
}

/// A u64 lies in SQLite as the i64 of the same bits; it is never compared
/// there except where it is a counter, which stays below 2^63.
pub(super) fn bits(value: u64) -> i64 {
    value.cast_signed()
}

pub(super) fn unbits(value: i64) -> u64 {
    value.cast_unsigned()
}

/// A number or cursor as a bound of a search: one above 2^63 was never given,
/// and must not wrap below all the others.
pub(super) fn counter(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A length or a limit as SQLite counts it.
pub(super) fn count(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// How many of `sizes`, from the front, make a page of `max_bytes`: at least
/// one, so that a large row does not block what is behind it.
pub(super) fn page_len(sizes: impl IntoIterator<Item = i64>, max_bytes: usize) -> usize {
    let mut bytes = 0i64;
    sizes
        .into_iter()
        .enumerate()
        .take_while(|(at, size)| {
            bytes = bytes.saturating_add(*size);
            *at == 0 || bytes <= count(max_bytes)
        })
        .count()
}

/// The rows of a query until they make a page of `max_bytes`: at least one, and
/// no row is read for nothing but the few that SQLite's thread is ahead.
pub(super) async fn page<C, R>(
    mut found: impl Stream<Item = Result<C, sqlx::Error>> + Unpin,
    row: impl Fn(C) -> R,
    size: impl Fn(&R) -> usize,
    max_bytes: usize,
) -> Result<Vec<R>, Error> {
    cut_page(&mut found, row, size, max_bytes).await.map(|(page, _)| page)
}

/// The same, and whether rows were left out for their bytes.
pub(super) async fn cut_page<C, R>(
    mut found: impl Stream<Item = Result<C, sqlx::Error>> + Unpin,
    row: impl Fn(C) -> R,
    size: impl Fn(&R) -> usize,
    max_bytes: usize,
) -> Result<(Vec<R>, bool), Error> {
    let (mut page, mut bytes) = (Vec::new(), 0usize);
    while let Some(columns) = found.next().await {
        let row = row(columns.map_err(error)?);
        bytes = bytes.saturating_add(size(&row));
        if bytes > max_bytes && !page.is_empty() {
            return Ok((page, true));
        }
        page.push(row);
    }
    Ok((page, false))
}

#[cfg(test)]
mod tests;
