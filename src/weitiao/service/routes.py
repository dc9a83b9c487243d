"""The routes as data: method, path, what answers, and the role that the caller needs."""

from weitiao.service import inference_protocol as oip
from weitiao.service import openai, plain
from weitiao.service import openai_shapes as shapes
from weitiao.service.calls import Route

ROUTES: tuple[Route, ...] = (
    # In the order in which they are tried: what is asked most stands first.
    Route("POST", "/predict/{model}", plain.predict, "predict", "Predict texts",
          plain.PredictRequest, plain.PredictResponse),
    Route("GET", "/v2/health/live", oip.live, "", "The process answers", answer=oip.Live),
    Route("GET", "/v2/health/ready", oip.ready, "", "Requests are wanted", answer=oip.Ready),
    Route("GET", "/v2", oip.server, "predict", "What this server is", answer=oip.ServerMetadata),
    *(
        route
        for base in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
        for route in (
            Route("GET", base, oip.metadata, "predict", "What a model reads and gives", answer=oip.ModelMetadata),
            Route("GET", f"{base}/ready", oip.model_ready, "predict", "A model is loaded", answer=oip.ModelReady),
            Route("POST", f"{base}/infer", oip.infer, "predict", "Predict texts (Open Inference Protocol)",
                  oip.InferRequest, oip.InferResponse),
        )
    ),
    Route("GET", "/v1/models", openai.models, "predict", "The served models",
          answer=shapes.ModelsResponse, style="openai"),
    Route("GET", "/v1/models/{model}", openai.model, "predict", "One served model",
          answer=shapes.Model, style="openai"),
    Route("POST", "/v1/embeddings", openai.embeddings, "predict", "Vectors of texts",
          shapes.EmbeddingRequest, shapes.EmbeddingResponse, style="openai"),
    Route("POST", "/v1/chat/completions", openai.chat, "predict", "The next turn of a chat",
          shapes.ChatRequest, shapes.ChatResponse, style="openai"),
    Route("POST", "/v1/completions", openai.completions, "predict", "How a text goes on",
          shapes.CompletionRequest, shapes.CompletionResponse, style="openai"),
    Route("GET", "/metrics", plain.metrics, "metrics", "Metrics in Prometheus' text format"),
    Route("GET", "/admin/models", plain.models, "admin", "The loaded models", answer=plain.ModelList),
    Route("POST", "/admin/models/{model}/load", plain.load, "admin",
          "Load a model, or a version of it, from the served folder", plain.LoadRequest, plain.ModelState,
          body_required=False),
    Route("POST", "/admin/models/{model}/reload", plain.reload, "admin",
          "Load the newest version of a model", answer=plain.ModelState),
    Route("POST", "/admin/models/{model}/rollback", plain.rollback, "admin",
          "Go back to the version before", answer=plain.ModelState),
    Route("POST", "/admin/models/{model}/unload", plain.unload, "admin",
          "Serve a model no more", answer=plain.Unloaded),
)  # fmt: skip
