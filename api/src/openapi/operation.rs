//! One method of one path, in the words that all endpoints share.

use utoipa::ToSchema;
use utoipa::openapi::header::Header;
use utoipa::openapi::path::{OperationBuilder, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{ObjectBuilder, SchemaType, Type};
use utoipa::openapi::security::SecurityRequirement;
use utoipa::openapi::{ContentBuilder, HttpMethod, PathItem, RefOr, Required, Response, ResponseBuilder, Schema};

use crate::dialect::Dialect;

/// The names of the schemes under which API keys are sent.
pub const BEARER: &str = "bearer";
pub const API_KEY: &str = "api_key";
const JSON: &str = "application/json";

type Schemas = Vec<(String, RefOr<Schema>)>;

/// One method of one path. What is said here of statuses and types is what a client may rely on.
pub struct Operation {
    path: &'static str,
    method: HttpMethod,
    dialect: Dialect,
    inner: OperationBuilder,
    schemas: Schemas,
    keyed: bool,
    /// Kept back until the end, so that each can be given the headers of all answers.
    answers: Vec<(u16, ResponseBuilder)>,
}

impl Operation {
    pub fn get(path: &'static str, dialect: Dialect, tag: &'static str) -> Self {
        Self::new(HttpMethod::Get, path, dialect, tag)
    }

    pub fn post(path: &'static str, dialect: Dialect, tag: &'static str) -> Self {
        Self::new(HttpMethod::Post, path, dialect, tag)
    }

    pub fn delete(path: &'static str, dialect: Dialect, tag: &'static str) -> Self {
        Self::new(HttpMethod::Delete, path, dialect, tag)
    }

    fn new(method: HttpMethod, path: &'static str, dialect: Dialect, tag: &'static str) -> Self {
        let inner = OperationBuilder::new().tag(tag);
        Self { path, method, dialect, inner, schemas: Vec::new(), keyed: false, answers: Vec::new() }
    }

    /// `id` names the operation in generated clients, `summary` is one line, `about` may be Markdown.
    pub fn about(mut self, id: &str, summary: &str, about: &str) -> Self {
        let about = (!about.is_empty()).then_some(about);
        self.inner = self.inner.operation_id(Some(id)).summary(Some(summary)).description(about);
        self
    }

    /// A part of the path; written `{name}` there.
    pub fn in_path(self, name: &str, about: &str) -> Self {
        let schema = ObjectBuilder::new().schema_type(SchemaType::Type(Type::String)).min_length(Some(1));
        self.parameter(
            ParameterBuilder::new()
                .name(name)
                .parameter_in(ParameterIn::Path)
                .required(Required::True)
                .schema(Some(schema)),
            about,
        )
    }

    /// An optional text in the query; not an empty one.
    pub fn in_query(self, name: &str, about: &str) -> Self {
        self.in_query_as(name, about, text().min_length(Some(1)))
    }

    /// An optional part of the query that is more than a text.
    pub fn in_query_as(self, name: &str, about: &str, schema: impl Into<RefOr<Schema>>) -> Self {
        self.parameter(ParameterBuilder::new().name(name).parameter_in(ParameterIn::Query).schema(Some(schema)), about)
    }

    /// An optional header.
    pub fn header(self, name: &str, about: &str, schema: impl Into<RefOr<Schema>>) -> Self {
        let header = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Header).schema(Some(schema));
        self.parameter(header, about)
    }

    fn parameter(mut self, parameter: ParameterBuilder, about: &str) -> Self {
        let parameter: Parameter = parameter.description(Some(about)).build();
        self.inner = self.inner.parameter(parameter);
        self
    }

    /// A JSON body that must be sent.
    pub fn body<T: ToSchema>(self) -> Self {
        self.body_as::<T>(JSON)
    }

    /// A body of another type that must be sent.
    pub fn body_as<T: ToSchema>(mut self, media: &str) -> Self {
        let schema = self.schema::<T>();
        let content = ContentBuilder::new().schema(Some(schema)).build();
        self.inner = self.inner.request_body(Some(
            RequestBodyBuilder::new().content(media, content).required(Some(Required::True)).build(),
        ));
        self
    }

    /// A JSON answer.
    pub fn answer<T: ToSchema>(self, status: u16, about: &str) -> Self {
        self.answer_as::<T>(status, JSON, about)
    }

    /// An answer of another type.
    pub fn answer_as<T: ToSchema>(mut self, status: u16, media: &str, about: &str) -> Self {
        let schema = self.schema::<T>();
        let content = ContentBuilder::new().schema(Some(schema)).build();
        self.answers.push((status, ResponseBuilder::new().description(about).content(media, content)));
        self
    }

    /// An answer without a body.
    pub fn empty_answer(mut self, status: u16, about: &str) -> Self {
        self.answers.push((status, ResponseBuilder::new().description(about)));
        self
    }

    /// A header of all answers with `status` given so far.
    pub fn answer_header(mut self, status: u16, name: &str, about: &str) -> Self {
        for (of, answer) in &mut self.answers {
            if *of == status {
                *answer = std::mem::take(answer).header(name, header(about));
            }
        }
        self
    }

    /// Errors, in the words of the dialect.
    pub fn errors(mut self, statuses: &[u16]) -> Self {
        let schema = match self.dialect {
            Dialect::OpenAi => self.schema::<super::embeddings::OpenAiErrorBody>(),
            Dialect::Tei => self.schema::<super::embeddings::TeiErrorBody>(),
        };
        for status in statuses {
            let content = ContentBuilder::new().schema(Some(schema.clone())).build();
            let mut answer = ResponseBuilder::new().description(reason(*status)).content(JSON, content);
            match status {
                429 | 503 => {
                    answer = answer.header("retry-after", count("Seconds to wait before trying again."));
                    answer = answer.header("retry-after-ms", count("The same in milliseconds."));
                }
                401 => answer = answer.header("www-authenticate", header("`Bearer`")),
                409 | 424 | 500 | 507 => {
                    let about = "`false` where the same request would get the same answer.";
                    answer = answer.header("x-should-retry", header(about));
                }
                _ => {}
            }
            self.answers.push((*status, answer));
        }
        self
    }

    /// An API key is sent, where keys are configured; what comes of a wrong one, or of too much.
    pub fn keyed(mut self) -> Self {
        // Each suffices, and the empty one stands for an api without keys.
        for scheme in [BEARER, API_KEY] {
            self.inner = self.inner.security(SecurityRequirement::new(scheme, [] as [&str; 0]));
        }
        self.inner = self.inner.security(SecurityRequirement::default());
        self.keyed = true;
        self.errors(&[401, 403, 429])
    }

    fn schema<T: ToSchema>(&mut self) -> RefOr<Schema> {
        T::schemas(&mut self.schemas);
        match T::schema() {
            // Built-in types have no name worth a reference.
            RefOr::T(schema @ Schema::Object(_)) if T::name().is_empty() || T::name() == "String" => RefOr::T(schema),
            schema => {
                self.schemas.push((T::name().into_owned(), schema));
                RefOr::Ref(utoipa::openapi::Ref::from_schema_name(T::name()))
            }
        }
    }

    /// The path, the item for the document, and the schemas that it refers to.
    pub fn finish(self) -> (&'static str, PathItem, Schemas) {
        let Self { path, method, mut inner, schemas, answers, keyed, .. } = self;
        for (status, mut answer) in answers {
            // Whoever is not known has no limits.
            if keyed && status != 401 {
                answer = limits(answer);
            }
            let answer: Response = answer
                .header("x-request-id", header("The request's id, the client's own if it sent one."))
                .header("traceparent", header("W3C trace context of this request."))
                .build();
            inner = inner.response(status.to_string(), answer);
        }
        (path, PathItem::new(method, inner), schemas)
    }

    #[cfg(test)]
    pub fn names(&self) -> (&'static str, String) {
        let method = serde_json::to_value(&self.method).unwrap();
        (self.path, method.as_str().unwrap().to_uppercase())
    }
}

/// A whole number within bounds.
pub fn number(least: u32, most: u32) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(SchemaType::Type(Type::Integer)).minimum(Some(least)).maximum(Some(most))
}

/// One of a few words.
pub fn one_of(words: &[&str]) -> ObjectBuilder {
    text().enum_values(Some(words.iter().map(|word| (*word).to_owned())))
}

/// A text of a certain form.
pub fn pattern(pattern: &str) -> ObjectBuilder {
    text().pattern(Some(pattern))
}

fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(SchemaType::Type(Type::String))
}

fn header(about: &str) -> Header {
    utoipa::openapi::HeaderBuilder::new().schema(Some(text())).description(Some(about)).build()
}

fn count(about: &str) -> Header {
    utoipa::openapi::HeaderBuilder::new().schema(Some(whole())).description(Some(about)).build()
}

fn whole() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(SchemaType::Type(Type::Integer)).minimum(Some(0))
}

/// What is left of the caller's limits, in OpenAI's names.
fn limits(answer: ResponseBuilder) -> ResponseBuilder {
    ["requests", "tokens"].into_iter().fold(answer, |answer, what| {
        let name = |part| format!("x-ratelimit-{part}-{what}");
        answer
            .header(name("limit"), count(&format!("Most {what} at once, where the key has such a limit.")))
            .header(name("remaining"), count(&format!("How many {what} are left of it.")))
            .header(name("reset"), header("When all of it is there again: a time such as 20ms, 1.5s or 6m0s."))
    })
}

fn reason(status: u16) -> &'static str {
    match status {
        400 => "The request is wrong; the message says where.",
        401 => "No API key, or one that is not known.",
        403 => "This key may not do that.",
        404 => "No such thing.",
        408 => "The body did not arrive in time.",
        409 => "Not possible in the present state.",
        413 => "Too large.",
        415 => "The body is not of the type above, or it is compressed.",
        422 => "The request is wrong; the message says where.",
        424 => "The model answered with something unusable.",
        429 => "Over a limit of the caller's own.",
        500 => "A failure on our side; it is logged under the request id.",
        503 => "No capacity, no worker or no broker at the moment.",
        504 => "Not answered by the deadline.",
        507 => "The store of files is full; something must be deleted, or the store made larger.",
        _ => "See the message.",
    }
}
