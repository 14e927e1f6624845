"""What is inside a model: attention, fusion scales, feature maps, Grad-CAM; figures for papers."""
