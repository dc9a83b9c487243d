"""The routes as data: method, path, what answers, the role that the caller needs, and what to say about them."""

from weitiao.service import inference_protocol as oip
from weitiao.service import openai, plain
from weitiao.service import openai_shapes as shapes
from weitiao.service.calls import Route

TENSOR = {"name": "text", "shape": [2], "datatype": "BYTES", "data": ["物流很快", "Broken on arrival"]}

ROUTES: tuple[Route, ...] = (
    # In the order in which they are tried: what is asked most stands first.
    Route("POST", "/predict/{model}", plain.predict, "predict", ("Predict texts", "预测文本"),
          plain.PredictRequest, plain.PredictResponse, example={"texts": ["物流很快", "Broken on arrival"]}),
    Route("GET", "/v2/health/live", oip.live, "", ("The process answers", "进程存活"), answer=oip.Live),
    Route("GET", "/v2/health/ready", oip.ready, "", ("Requests are wanted", "可以接收请求"), answer=oip.Ready),
    Route("GET", "/v2", oip.server, "predict", ("What this server is", "服务器信息"), answer=oip.ServerMetadata),
    *(
        route
        for base in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
        for route in (
            Route("GET", base, oip.metadata, "predict", ("What a model reads and gives", "模型的输入与输出"),
                  answer=oip.ModelMetadata),
            Route("GET", f"{base}/ready", oip.model_ready, "predict", ("A model is loaded", "模型是否已加载"),
                  answer=oip.ModelReady),
            Route("POST", f"{base}/infer", oip.infer, "predict",
                  ("Predict texts (Open Inference Protocol)", "预测文本（Open Inference Protocol）"),
                  oip.InferRequest, oip.InferResponse, example={"inputs": [TENSOR]}),
        )
    ),
    Route("GET", "/v1/models", openai.models, "predict", ("The served models", "正在提供的模型"),
          answer=shapes.ModelsResponse, style="openai"),
    Route("GET", "/v1/models/{model}", openai.model, "predict", ("One served model", "某个正在提供的模型"),
          answer=shapes.Model, style="openai"),
    Route("POST", "/v1/embeddings", openai.embeddings, "predict", ("Vectors of texts", "文本向量"),
          shapes.EmbeddingRequest, shapes.EmbeddingResponse, style="openai",
          example={"model": "reviews", "input": ["物流很快", "Broken on arrival"]}),
    Route("POST", "/v1/chat/completions", openai.chat, "predict", ("The next turn of a chat", "对话的下一轮回复"),
          shapes.ChatRequest, shapes.ChatResponse, style="openai",
          example={"model": "smol", "messages": [{"role": "user", "content": "你好"}], "max_tokens": 64}),
    Route("POST", "/v1/completions", openai.completions, "predict", ("How a text goes on", "续写文本"),
          shapes.CompletionRequest, shapes.CompletionResponse, style="openai",
          example={"model": "smol", "prompt": "Once upon a time", "max_tokens": 64}),
    Route("GET", "/metrics", plain.metrics, "metrics",
          ("Metrics in Prometheus' text format", "监控指标（Prometheus 文本格式）")),
    Route("GET", "/admin/models", plain.models, "admin", ("The loaded models", "已加载的模型"),
          answer=plain.ModelList),
    Route("POST", "/admin/models/{model}/load", plain.load, "admin",
          ("Load a model, or a version of it, from the served folder", "从部署目录加载模型，或它的某个版本"),
          plain.LoadRequest, plain.ModelState, body_required=False, example={"folder": "v2"}),
    Route("POST", "/admin/models/{model}/reload", plain.reload, "admin",
          ("Load the newest version of a model", "加载模型的最新版本"), answer=plain.ModelState),
    Route("POST", "/admin/models/{model}/rollback", plain.rollback, "admin",
          ("Go back to the version before", "回退到上一个版本"), answer=plain.ModelState),
    Route("POST", "/admin/models/{model}/unload", plain.unload, "admin",
          ("Serve a model no more", "停止提供某个模型"), answer=plain.Unloaded),
)  # fmt: skip
